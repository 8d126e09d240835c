//! A network between an edge and its database that stops to carry anything, without a word.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Carries bytes between whoever connects and one server.
pub struct Network {
    address: SocketAddr,
    carries: Arc<Carries>,
}

#[derive(Default)]
struct Carries {
    swallows: Mutex<bool>,
    changed: Condvar,
}

impl Network {
    pub fn to(server: SocketAddr) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let carries: Arc<Carries> = Arc::default();
        let for_thread = carries.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(server) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let carries = for_thread.clone();
                    thread::spawn(move || carry(from, to, &carries));
                }
            }
        });
        Network { address, carries }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing gets through, and nobody is told. What is sent is kept, as TCP
    /// does, which repeats it.
    pub fn swallow(&self, swallow: bool) {
        *self.carries.swallows.lock().unwrap() = swallow;
        self.carries.changed.notify_all();
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, carries: &Carries) {
    let mut chunk = [0; 16 * 1024];
    loop {
        let read = from.read(&mut chunk).unwrap_or(0);
        let swallows = carries.swallows.lock().unwrap();
        drop(carries.changed.wait_while(swallows, |swallows| *swallows).unwrap());
        if read == 0 || to.write_all(&chunk[..read]).is_err() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
    }
}
