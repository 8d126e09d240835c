//! The demo's MQTT broker: mosquitto, started here and ended with the demo.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

const START: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// A running broker. Killed when it is dropped.
pub struct Broker {
    child: Child,
    address: SocketAddr,
}

impl Broker {
    pub fn start(folder: &Path) -> anyhow::Result<Broker> {
        // mosquitto takes no port 0: one that was free a moment ago.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let conf = folder.join("mosquitto.conf");
        let listener = format!("listener {} {}", address.port(), address.ip());
        fs::write(&conf, format!("{listener}\nallow_anonymous true\n"))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&conf)
            // Debian keeps it where only root's path leads.
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the tour needs mosquitto (Debian: mosquitto and mosquitto-clients)")?;
        let mut broker = Broker { child, address };
        let end = Instant::now() + START;
        while TcpStream::connect(address).is_err() {
            if broker.child.try_wait()?.is_some() || Instant::now() > end {
                bail!("mosquitto does not start on {address}");
            }
            #[expect(clippy::disallowed_methods, reason = "the demo has nothing else to do")]
            thread::sleep(PAUSE);
        }
        Ok(broker)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
