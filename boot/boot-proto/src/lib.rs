//! How a machine wakes: the DHCP and PXE answer, the address pool, the TFTP transfer, and the quirks of firmware.
//! Never here: sockets, clocks, files, threads. Every input is an argument, every output a value; packets are hostile until read.
//! Called by `boot-server`, which owns the sockets, and by simulators and fuzz targets.

pub mod dhcp;
pub mod lease;
pub mod quirks;
pub mod tftp;
