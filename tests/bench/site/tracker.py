"""The smallest BitTorrent tracker over HTTP: whoever asks is told of everybody else. tracker.py ADDRESS PORT"""

import socket
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote_to_bytes, urlsplit

INTERVAL_SECONDS = 2


class Announce(BaseHTTPRequestHandler):
    swarms = {}

    def do_GET(self):
        # the hash is bytes and not text: urllib's own parser would decode it
        query = dict(field.partition("=")[::2] for field in urlsplit(self.path).query.split("&"))
        swarm = self.swarms.setdefault(unquote_to_bytes(query.get("info_hash", "")), {})
        peer = self.client_address[0], int(query.get("port", "6881"))
        if query.get("event") == "stopped":
            swarm.pop(peer, None)
        else:
            swarm[peer] = True
        others = b"".join(socket.inet_aton(ip) + struct.pack(">H", port) for ip, port in list(swarm) if (ip, port) != peer)
        answer = b"d8:intervali%de12:min intervali1e5:peers%d:%se" % (INTERVAL_SECONDS, len(others), others)
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Announce).serve_forever()
