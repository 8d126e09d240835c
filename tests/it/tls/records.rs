//! Records of an established connection, sealed by hand, so that a client can send what no
//! library sends: floods of KeyUpdate, empty records, warnings, a second ClientHello.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::ssl::{Ssl, SslContextBuilder, SslMethod, SslStream, SslVersion};
use openssl::symm::{Cipher, encrypt_aead};
use openssl::x509::X509;

use super::hello::connect;
use crate::pki::Minted;

pub const APPLICATION_DATA: u8 = 23;

/// A device's established connection whose sending side is ours. Reading is OpenSSL's.
pub struct Handmade {
    tls: SslStream<TcpStream>,
    keys: Keys,
    sequence: u64,
}

enum Keys {
    Tls12 { key: Vec<u8>, salt: Vec<u8> },
    Tls13 { secret: Vec<u8> },
}

impl Handmade {
    pub fn connect(
        address: SocketAddr,
        server_name: &str,
        chain: [&Minted; 2],
        version: SslVersion,
    ) -> Handmade {
        let mut context = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
        context.set_min_proto_version(Some(version)).unwrap();
        context.set_max_proto_version(Some(version)).unwrap();
        context.set_ciphersuites("TLS_AES_128_GCM_SHA256").unwrap();
        context.set_cipher_list("ECDHE-ECDSA-AES128-GCM-SHA256").unwrap();
        context.set_certificate(&X509::from_der(&chain[0].der).unwrap()).unwrap();
        let key = PKey::private_key_from_pem(&chain[0].key.pem()).unwrap();
        context.set_private_key(&key).unwrap();
        context.add_extra_chain_cert(X509::from_der(&chain[1].der).unwrap()).unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = lines.clone();
        context.set_keylog_callback(move |_, line| log.lock().unwrap().push(line.to_owned()));
        let mut ssl = Ssl::new(&context.build()).unwrap();
        ssl.set_hostname(server_name).unwrap();
        let tls = ssl.connect(connect(address)).unwrap();
        let label = match version {
            SslVersion::TLS1_2 => "CLIENT_RANDOM",
            _ => "CLIENT_TRAFFIC_SECRET_0",
        };
        let lines = lines.lock().unwrap();
        let secret = lines.iter().find_map(|line| {
            let mut words = line.split(' ');
            (words.next() == Some(label)).then(|| unhex(words.nth(1).unwrap()))
        });
        let secret = secret.unwrap();
        let (keys, sequence) = match version {
            // The client's Finished was number 0.
            SslVersion::TLS1_2 => (Keys::tls12(&secret, &tls), 1),
            _ => (Keys::Tls13 { secret }, 0),
        };
        Handmade { tls, keys, sequence }
    }

    /// Sends records of one type, each with one of these payloads, in one write. The edge may
    /// have closed already.
    pub fn send(&mut self, kind: u8, payloads: &[&[u8]]) {
        let records: Vec<u8> = payloads.iter().flat_map(|p| self.seal(kind, p)).collect();
        let _ = self.tls.get_ref().write_all(&records);
    }

    /// TLS 1.3: sends KeyUpdate messages, each under the key that the one before announced.
    pub fn update_keys(&mut self, times: usize, ask_back: bool) {
        let mut bytes = Vec::new();
        for _ in 0..times {
            bytes.extend(self.seal(22, &[24, 0, 0, 1, u8::from(ask_back)]));
            if let Keys::Tls13 { secret } = &mut self.keys {
                *secret = expand_label(secret, "traffic upd", 32);
                self.sequence = 0;
            }
        }
        let _ = self.tls.get_ref().write_all(&bytes);
    }

    /// What comes next, at most 16 KiB; the alert, or `None` for a close, where none does.
    pub fn read(&mut self) -> Result<Vec<u8>, Option<u8>> {
        let mut chunk = vec![0; 16 * 1024];
        match self.tls.ssl_read(&mut chunk) {
            Ok(0) => Err(None),
            Ok(n) => Ok(chunk[..n].to_vec()),
            Err(error) => {
                if let Some(io) = error.io_error() {
                    assert_ne!(io.kind(), std::io::ErrorKind::WouldBlock, "it stays open");
                }
                let stack = error.ssl_error().map_or(&[][..], |stack| stack.errors());
                let alert = |e: &openssl::error::Error| u8::try_from(e.reason_code() - 1000).ok();
                Err(stack.iter().find_map(alert))
            }
        }
    }

    /// The alert that ends the connection, or `None` where it is closed without one.
    pub fn end(&mut self) -> Option<u8> {
        loop {
            if let Err(end) = self.read() {
                return end;
            }
        }
    }

    fn seal(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let sequence = self.sequence.to_be_bytes();
        self.sequence += 1;
        let cipher = Cipher::aes_128_gcm();
        let mut tag = [0; 16];
        match &self.keys {
            Keys::Tls12 { key, salt } => {
                let nonce = [salt.as_slice(), &sequence].concat();
                let length = (payload.len() as u16).to_be_bytes();
                let aad = [&sequence[..], &[kind, 3, 3], &length].concat();
                let sealed = encrypt_aead(cipher, key, Some(&nonce), &aad, payload, &mut tag);
                let body = [&sequence[..], &sealed.unwrap(), &tag].concat();
                [&[kind, 3, 3][..], &(body.len() as u16).to_be_bytes(), &body].concat()
            }
            Keys::Tls13 { secret } => {
                let key = expand_label(secret, "key", 16);
                let mut nonce = expand_label(secret, "iv", 12);
                nonce[4..].iter_mut().zip(sequence).for_each(|(n, s)| *n ^= s);
                let inner = [payload, &[kind]].concat();
                let length = (inner.len() as u16 + 16).to_be_bytes();
                let header = [&[APPLICATION_DATA, 3, 3][..], &length].concat();
                let sealed = encrypt_aead(cipher, &key, Some(&nonce), &header, &inner, &mut tag);
                [header, sealed.unwrap(), tag.to_vec()].concat()
            }
        }
    }
}

impl Keys {
    /// RFC 5246 section 6.3.
    fn tls12(master: &[u8], tls: &SslStream<TcpStream>) -> Keys {
        let (mut client, mut server) = ([0; 32], [0; 32]);
        tls.ssl().client_random(&mut client);
        tls.ssl().server_random(&mut server);
        let seed = [&b"key expansion"[..], &server, &client].concat();
        let (mut block, mut a) = (Vec::new(), seed.clone());
        while block.len() < 40 {
            a = hmac(master, &a);
            block.extend(hmac(master, &[a.as_slice(), &seed].concat()));
        }
        Keys::Tls12 { key: block[..16].to_vec(), salt: block[32..36].to_vec() }
    }
}

/// RFC 8446 section 7.1, for outputs of one block.
fn expand_label(secret: &[u8], label: &str, length: u8) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let info = [&[0, length, label.len() as u8], label.as_bytes(), &[0, 1]].concat();
    let mut out = hmac(secret, &info);
    out.truncate(length.into());
    out
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = PKey::hmac(key).unwrap();
    let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
    signer.sign_oneshot_to_vec(data).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}
