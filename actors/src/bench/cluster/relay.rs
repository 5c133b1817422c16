//! What `tc netem` would do to a connection, for kernels without it: every byte comes later, and one piece in twenty as late as a lost
//! packet that is sent again.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Every so many pieces, one is late by two delays more.
const LOST: usize = 20;

/// Passes connections on to `to`, `delay` each way; the address to dial. It lives as long as the process.
///
/// # Errors
/// No port on the loopback.
pub fn start(to: String, delay: Duration) -> Result<String, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?.to_string();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            // A head that is away refuses; whoever dialled us sees its connection end.
            let _ = near.and_then(|near| {
                let far = TcpStream::connect(&to)?;
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
                pipe(near.try_clone()?, far.try_clone()?, delay);
                pipe(far, near, delay);
                Ok(())
            });
        }
    });
    Ok(address)
}

fn pipe(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (send, receive) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut piece = vec![0; 16 << 10];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            if send.send((Instant::now() + delay, piece[..n].to_vec())).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (n, (when, piece)) in receive.iter().enumerate() {
            let again = if n % LOST == LOST - 1 { 2 * delay } else { Duration::ZERO };
            std::thread::sleep((when + again).saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
