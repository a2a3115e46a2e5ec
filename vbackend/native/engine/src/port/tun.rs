//! temp
#![allow(missing_docs, unused)]
use super::*;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
pub struct TunConfig {
    pub mac: [u8; 6],
    pub local: Vec<IpAddr>,
    pub peers: Vec<IpAddr>,
    pub packet_info: bool,
    pub mtu: usize,
}
pub struct Tun {
    fd: OwnedFd,
}
impl Tun {
    pub fn new(fd: OwnedFd, _c: TunConfig) -> io::Result<Tun> {
        Ok(Tun { fd })
    }
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
    pub fn receive(&mut self, _s: &mut Scratch, _rx: &mut Lane, _now_ms: u64) -> Result<(), End> {
        Ok(())
    }
    pub fn transmit(&mut self, _w: &[u8], _r: &[Run], _o: &mut Outgoing<'_>) -> Result<(), End> {
        Ok(())
    }
    pub fn flush(&mut self, _o: &mut Outgoing<'_>) -> Result<(), End> {
        Ok(())
    }
    pub fn has_generated(&self) -> bool {
        false
    }
    pub fn take_generated(&mut self, _w: &mut Vec<u8>, _rx: &mut Lane) {}
    pub fn deadline_ms(&self) -> Option<u64> {
        None
    }
    pub fn handle_timeout(&mut self, _n: u64, _rx: &mut Lane) {}
}
