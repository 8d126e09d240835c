//! The first bytes of a connection by hand: a ClientHello that OpenSSL wrote, changed and sent
//! as raw records, and a relay that hands on a client's records as a test wants them.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use openssl::ssl::HandshakeError;
use socket2::{Domain, Socket, Type};

use crate::world::Client;

pub const SERVER_NAME: u16 = 0;
pub const HANDSHAKE: u8 = 22;
pub const ALERT: u8 = 21;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A ClientHello, taken apart as far as its extensions.
#[derive(Clone)]
pub struct Hello {
    /// Version, random, session id, cipher suites, compression methods.
    start: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    /// What this client would send first.
    pub fn of(client: &Client) -> Hello {
        let ssl = client.ssl(&Arc::default());
        let Err(HandshakeError::WouldBlock(waiting)) = ssl.connect(Sink::default()) else {
            panic!("OpenSSL waits for the answer to its hello");
        };
        let records = records(&waiting.get_ref().0);
        let message: Vec<u8> = records.into_iter().flat_map(|(_, payload)| payload).collect();
        Hello::parse(&message)
    }

    fn parse(message: &[u8]) -> Hello {
        let mut at = 4 + 2 + 32;
        at += 1 + usize::from(message[at]);
        at += 2 + u16_at(message, at);
        at += 1 + usize::from(message[at]);
        let start = message[4..at].to_vec();
        let mut extensions = Vec::new();
        at += 2;
        while at < message.len() {
            let end = at + 4 + u16_at(message, at + 2);
            extensions.push((u16_at(message, at) as u16, message[at + 4..end].to_vec()));
            at = end;
        }
        Hello { start, extensions }
    }

    /// Puts another body into an extension that is there.
    pub fn extension(mut self, kind: u16, body: &[u8]) -> Hello {
        let slot = self.extensions.iter_mut().find(|(known, _)| *known == kind);
        slot.expect("the hello has the extension").1 = body.to_vec();
        self
    }

    /// Adds an extension, whether there is one of the kind or not.
    pub fn another_extension(mut self, kind: u16, body: &[u8]) -> Hello {
        self.extensions.push((kind, body.to_vec()));
        self
    }

    /// These octets as the one host name, whatever they are.
    pub fn server_name(self, name: &[u8]) -> Hello {
        let body = sized(&server_name_entry(name));
        self.extension(SERVER_NAME, &body)
    }

    /// The handshake message.
    pub fn message(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        for (kind, body) in &self.extensions {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(sized(body));
        }
        let body = [self.start.clone(), sized(&extensions)].concat();
        let length = (body.len() as u32).to_be_bytes();
        [&[1], &length[1..], &body].concat()
    }

    /// As records of at most `size` octets.
    pub fn records(&self, size: usize) -> Vec<u8> {
        into_records(&self.message(), size)
    }
}

/// An entry of a server_name list (RFC 6066 section 3).
pub fn server_name_entry(name: &[u8]) -> Vec<u8> {
    [vec![0], sized(name)].concat()
}

/// Octets after their length in two octets.
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A handshake message as records of at most `size` octets.
pub fn into_records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [vec![HANDSHAKE, 3, 1], sized(part)].concat()).collect()
}

/// TLS 1.2's Certificate message in a record of its own.
pub fn certificate_record(ders: &[&[u8]]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[1..], bytes].concat();
    let list: Vec<u8> = ders.iter().flat_map(|der| sized(der)).collect();
    let message = [vec![11], sized(&sized(&list))].concat();
    into_records(&message, 16 * 1024)
}

/// Type and payload of each whole record.
pub fn records(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut records = Vec::new();
    while bytes.len() >= 5 && bytes.len() >= 5 + u16_at(bytes, 3) {
        let (record, rest) = bytes.split_at(5 + u16_at(bytes, 3));
        records.push((record[0], record[5..].to_vec()));
        bytes = rest;
    }
    records
}

/// Sends bytes and returns all that comes back until the edge closes.
pub fn sent_raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = connect(address);
    let _ = tcp.write_all(bytes);
    read_to_close(&mut tcp)
}

/// Sends a hello, waits for the first whole record of the answer, sends another hello, and
/// returns the records of everything that the edge says until it closes.
pub fn sent_after_answer(address: SocketAddr, first: &Hello, then: &Hello) -> Vec<(u8, Vec<u8>)> {
    let mut tcp = connect(address);
    tcp.write_all(&first.records(16 * 1024)).unwrap();
    let mut said = Vec::new();
    while records(&said).is_empty() {
        let mut chunk = [0; 1024];
        let n = tcp.read(&mut chunk).unwrap();
        assert_ne!(n, 0, "closed after the first hello");
        said.extend_from_slice(&chunk[..n]);
    }
    let _ = tcp.write_all(&then.records(16 * 1024));
    said.extend(read_to_close(&mut tcp));
    records(&said)
}

/// The alert that is all the edge said.
#[track_caller]
pub fn only_alert(answer: &[u8]) -> u8 {
    let records = records(answer);
    let [(ALERT, alert)] = records.as_slice() else { panic!("not one alert: {records:?}") };
    assert_eq!((alert.len(), alert[0]), (2, 2), "not fatal: {alert:?}");
    alert[1]
}

pub fn connect(address: SocketAddr) -> TcpStream {
    prepared(TcpStream::connect(address).unwrap())
}

/// From one of the loopback's other addresses.
pub fn connect_from(source: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    prepared(socket.into())
}

fn prepared(tcp: TcpStream) -> TcpStream {
    tcp.set_read_timeout(Some(TIMEOUT)).unwrap();
    tcp.set_write_timeout(Some(TIMEOUT)).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

/// Everything up to the end of the stream, which must come; a reset is one, too.
pub fn read_to_close(tcp: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match tcp.read_to_end(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("it stays open"),
        _ => bytes,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// Takes what is written and never answers.
#[derive(Default)]
struct Sink(Vec<u8>);

impl Read for Sink {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Stands between clients and the edge. Ends with the test's process.
pub struct Relay {
    address: SocketAddr,
    sent_back: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    /// Connects from `source` and hands each record of the client's on as `rewrite` makes it of
    /// the record's number on its connection and its bytes; `None` withholds it and all later
    /// ones, and keeps the connection open.
    pub fn start(
        edge: SocketAddr,
        source: IpAddr,
        rewrite: impl Fn(usize, Vec<u8>) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sent_back: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (rewrite, said) = (Arc::new(rewrite), sent_back.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, edge) = (client.unwrap(), connect_from(source, edge));
                let said = said.clone();
                let back = (edge.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || hand_back(back.0, back.1, &said));
                let rewrite = rewrite.clone();
                thread::spawn(move || hand_on(client, edge, &*rewrite));
            }
        });
        Relay { address, sent_back }
    }

    /// A relay that changes nothing but the address that the edge sees.
    pub fn plain(source: IpAddr, edge: SocketAddr) -> Relay {
        Relay::start(edge, source, |_, record| Some(record))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that the edge has sent so far.
    pub fn sent_back(&self) -> Vec<u8> {
        self.sent_back.lock().unwrap().clone()
    }
}

fn hand_on(
    mut client: TcpStream,
    mut edge: TcpStream,
    rewrite: &dyn Fn(usize, Vec<u8>) -> Option<Vec<u8>>,
) {
    for number in 0.. {
        let mut record = vec![0; 5];
        if client.read_exact(&mut record).is_err() {
            let _ = edge.shutdown(std::net::Shutdown::Write);
            return;
        }
        record.resize(5 + u16_at(&record, 3), 0);
        if client.read_exact(&mut record[5..]).is_err() {
            return;
        }
        match rewrite(number, record) {
            Some(bytes) if edge.write_all(&bytes).is_ok() => {}
            Some(_) => return,
            // Until the client is gone.
            None => {
                let _ = io::copy(&mut client, &mut io::sink());
                return;
            }
        }
    }
}

fn hand_back(mut edge: TcpStream, mut client: TcpStream, said: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 16 * 1024];
    while let Ok(n @ 1..) = edge.read(&mut chunk) {
        said.lock().unwrap().extend_from_slice(&chunk[..n]);
        if client.write_all(&chunk[..n]).is_err() {
            return;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Write);
}
