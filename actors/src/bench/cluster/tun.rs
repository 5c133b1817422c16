//! One end of a link that is only there for tests (`link`): a process in a network namespace of its own, with a TUN device whose packets
//! go over stdin and stdout. Device and namespace are gone when stdin ends, whatever became of whoever held the other end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::ioctl::{Setter, ioctl, opcode};

/// The device's name in its namespace.
pub const DEVICE: &str = "troupe-line";
/// Bytes of one packet at most: the device's MTU is Ethernet's.
const PACKET: usize = 1 << 16;
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
/// `IFF_TUN | IFF_NO_PI`: IP packets with nothing before them.
const FLAGS: i16 = 0x1001;

/// `struct ifreq`, as far as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

fn open() -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = Request { name: [0; 16], flags: FLAGS, rest: [0; 22] };
    request.name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    // SAFETY: TUNSETIFF reads a `struct ifreq` of 40 bytes, which `Request` is, and keeps nothing of it.
    #[allow(unsafe_code)]
    let opened = unsafe { ioctl(device.as_fd(), Setter::<TUNSETIFF, Request>::new(request)) };
    opened?;
    Ok(device)
}

/// Length and packet.
///
/// # Errors
/// The other end is gone.
pub fn write_packet(to: &mut impl Write, packet: &[u8]) -> io::Result<()> {
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_be_bytes(), packet].concat())?;
    to.flush()
}

/// `None` where nothing comes any more.
pub fn read_packet(from: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    from.read_exact(&mut length).ok()?;
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    from.read_exact(&mut packet).ok()?;
    Some(packet)
}

/// Passes packets on until stdin ends.
///
/// # Errors
/// No such device here.
pub fn serve() -> io::Result<()> {
    let device = Arc::new(open()?);
    let from = device.clone();
    // Ends with the process: a device without packets is read for ever.
    std::thread::spawn(move || {
        let mut out = io::stdout().lock();
        let mut packet = vec![0; PACKET];
        while let Ok(n) = (&*from).read(&mut packet) {
            if write_packet(&mut out, &packet[..n]).is_err() {
                return;
            }
        }
    });
    let mut stdin = io::BufReader::new(io::stdin().lock());
    while let Some(packet) = read_packet(&mut stdin) {
        // A packet that the device does not take (it is not up yet) is lost, as on any network.
        let _ = (&*device).write(&packet);
    }
    Ok(())
}
