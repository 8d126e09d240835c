//! A platform that does as the path says, and remembers what it was sent.
//!
//! `/status/503` answers that; `/close` closes without an answer; `/hang` never answers;
//! `/chunked` answers in chunks; `/large` answers 1 MiB; `/websocket` upgrades and echoes;
//! everything else is answered 200 with the request's first line. A test may answer itself:
//! [`Upstream::answers`].

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;

use super::client::find;
use super::eventually;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Request line and header, as on the wire.
    pub head: String,
    pub body: Vec<u8>,
}

impl Recorded {
    /// Every value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1);
        let headers = lines.filter_map(|line| line.split_once(':'));
        let named = headers.filter(|(n, _)| n.trim().eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim()).collect()
    }
}

pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What a test answers in the place of the upstream.
pub enum Reply {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing, until the edge gives up.
    Hang,
    /// Nothing: the connection ends.
    Close,
    /// As the path says.
    AsAsked,
}

type Answering = Arc<dyn Fn(&Recorded) -> Reply + Send + Sync>;

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Recorded>>,
    answering: RwLock<Option<Answering>>,
    /// By their number.
    open: Mutex<HashMap<usize, TcpStream>>,
    connections: AtomicUsize,
    stopped: AtomicBool,
}

impl Upstream {
    pub fn start() -> Upstream {
        Upstream::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub fn on(listener: TcpListener) -> Upstream {
        let address = listener.local_addr().unwrap();
        let shared: Arc<Shared> = Arc::default();
        let for_thread = shared.clone();
        thread::spawn(move || {
            for tcp in listener.incoming() {
                if for_thread.stopped.load(Ordering::Acquire) {
                    return;
                }
                let Ok(tcp) = tcp else { continue };
                let number = for_thread.connections.fetch_add(1, Ordering::AcqRel);
                for_thread.open.lock().unwrap().insert(number, tcp.try_clone().unwrap());
                let shared = for_thread.clone();
                thread::spawn(move || {
                    serve(tcp, &shared);
                    if let Some(tcp) = shared.open.lock().unwrap().remove(&number) {
                        let _ = tcp.shutdown(Shutdown::Both);
                    }
                });
            }
        });
        Upstream { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on every request is shown to `answering`, which may also block.
    pub fn answers(&self, answering: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) {
        *self.shared.answering.write().unwrap() = Some(Arc::new(answering));
    }

    /// As a crash: nobody listens any more, and every connection ends.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        // Wakes the accept loop, which then ends and takes the listener with it.
        let _ = TcpStream::connect(self.address);
        eventually("nobody listens", || TcpStream::connect(self.address).is_err());
        for (_, tcp) in self.shared.open.lock().unwrap().drain() {
            let _ = tcp.shutdown(Shutdown::Both);
        }
    }

    /// Everything that came, in the order of arrival, health checks aside.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The one request that came.
    #[track_caller]
    pub fn only_request(&self) -> Recorded {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests[0].clone()
    }

    /// Connections so far, those of health checks among them.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        // Wakes the accept loop, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut tcp: TcpStream, shared: &Shared) {
    let mut bytes = Vec::new();
    while let Some((head, body)) = read_request(&mut tcp, &mut bytes) {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let request = Recorded { head: head.clone(), body };
        shared.requests.lock().unwrap().push(request.clone());
        let answering = shared.answering.read().unwrap().clone();
        let reply = answering.map_or(Reply::AsAsked, |answering| answering(&request));
        match reply {
            Reply::AsAsked => {}
            Reply::Close => return,
            Reply::Hang => {
                let _ = tcp.read(&mut [0; 1]);
                return;
            }
            Reply::Bytes(bytes) => match tcp.write_all(&bytes) {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        let answer = match path.split('?').next().unwrap_or_default() {
            "/close" => return,
            "/hang" => {
                // Until the edge gives up.
                let _ = tcp.read(&mut [0; 1]);
                return;
            }
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                           6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"
                .to_owned(),
            "/large" => with_body(200, &"x".repeat(1 << 20)),
            "/websocket" => {
                let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                              Connection: Upgrade\r\n\r\n";
                let _ = tcp.write_all(answer.as_bytes());
                let _ = tcp.write_all(&bytes);
                let mut chunk = [0; 1024];
                while let Ok(n @ 1..) = tcp.read(&mut chunk) {
                    let _ = tcp.write_all(&chunk[..n]);
                }
                return;
            }
            path => match path.strip_prefix("/status/").and_then(|s| s.parse().ok()) {
                Some(status) => with_body(status, "as you wish"),
                None => with_body(200, head.lines().next().unwrap_or_default()),
            },
        };
        if tcp.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn with_body(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn read_request(tcp: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut fill = |bytes: &mut Vec<u8>| {
        let mut chunk = [0; 16 * 1024];
        match tcp.read(&mut chunk) {
            Ok(n @ 1..) => {
                bytes.extend_from_slice(&chunk[..n]);
                Some(())
            }
            _ => None,
        }
    };
    let end = loop {
        if let Some(end) = find(bytes, b"\r\n\r\n") {
            break end + 4;
        }
        fill(bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    bytes.drain(..end);
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(n, value)| n.eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
    };
    let mut body = Vec::new();
    if header("transfer-encoding").is_some() {
        loop {
            let line = loop {
                if let Some(line) = find(bytes, b"\r\n") {
                    break line;
                }
                fill(bytes)?;
            };
            let size = std::str::from_utf8(&bytes[..line]).ok()?;
            let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
            while bytes.len() < line + 2 + size + 2 {
                fill(bytes)?;
            }
            body.extend_from_slice(&bytes[line + 2..line + 2 + size]);
            bytes.drain(..line + 2 + size + 2);
            if size == 0 {
                return Some((head, body));
            }
        }
    }
    let length: usize = header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    while bytes.len() < length {
        fill(bytes)?;
    }
    body.extend(bytes.drain(..length));
    Some((head, body))
}
