"""libtorrent as a user with a LAN would set it up. Run by the system's Python, which has its bindings.

    torrent.py make FILE TORRENT TRACKER
    torrent.py seed TORRENT FOLDER N RECEIVERS
    torrent.py get TORRENT FOLDER N RECEIVERS [COMMAND...]     says "torrent: done" when all is here and COMMAND has run; goes on serving
"""

import os
import subprocess
import sys
import time

import libtorrent

PIECE_BYTES = 1 << 20
PORT = 6881
LOOK_SECONDS = 0.02
RECONNECT_SECONDS = 2

# no throttle, no choking, no encryption, no discovery: the best that it reached in trials
SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "unchoke_slots_limit": -1,
    "choking_algorithm": 0,
    "connections_limit": 500,
    "connection_speed": 500,
    "torrent_connect_boost": 100,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "max_out_request_queue": 1500,
    "max_allowed_in_request_queue": 2000,
    "request_queue_time": 3,
    "send_buffer_watermark": 3 << 20,
    "send_buffer_low_watermark": 512 << 10,
    "aio_threads": 2,
    "hashing_threads": 1,
    "suggest_mode": 0,
    "no_recheck_incomplete_resume": True,
    "peer_timeout": 60,
    "alert_mask": 0,
}


def address(n):
    return f"10.77.0.{100 + n}"


def make(file, torrent, tracker):
    storage = libtorrent.file_storage()
    libtorrent.add_files(storage, file)
    made = libtorrent.create_torrent(storage, PIECE_BYTES, libtorrent.create_torrent.v1_only)
    made.add_tracker(tracker)
    libtorrent.set_piece_hashes(made, os.path.dirname(file))
    with open(torrent, "wb") as out:
        out.write(libtorrent.bencode(made.generate()))


def join(torrent, folder, n, is_seed):
    session = libtorrent.session(SETTINGS | {"listen_interfaces": f"{address(n)}:{PORT}"})
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(torrent)
    parameters.save_path = folder
    flags = libtorrent.torrent_flags
    parameters.flags &= ~(flags.auto_managed | flags.paused)
    if is_seed:
        parameters.flags |= flags.seed_mode
    return session, session.add_torrent(parameters)


def get(handle, n, receivers, command):
    """Peers are told to each other, so that nobody waits for a tracker."""
    told = 0.0
    while not handle.status().is_seeding:
        if time.monotonic() - told > RECONNECT_SECONDS:
            told = time.monotonic()
            for other in range(receivers + 1):
                if other != n:
                    handle.connect_peer((address(other), PORT))
        time.sleep(LOOK_SECONDS)
    if command:
        subprocess.run(command, check=True)
    print("torrent: done", flush=True)


def main():
    what, *arguments = sys.argv[1:]
    if what == "make":
        make(*arguments)
        return
    torrent, folder, n, receivers, *command = arguments
    session, handle = join(torrent, folder, int(n), what == "seed")
    if what == "get":
        get(handle, int(n), int(receivers), command)
    try:
        while session:
            time.sleep(1)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
