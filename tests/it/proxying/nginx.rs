//! A real server behind the edge.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::world::eventually;

pub struct Nginx {
    child: Child,
    dir: TempDir,
    address: SocketAddr,
}

impl Nginx {
    /// Listens on a free port; `listen` are parameters of that directive, `server` is the rest
    /// of the server's block, in which the names of `files` are relative.
    pub fn start(listen: &str, server: &str, files: &[(&str, Vec<u8>)]) -> Nginx {
        let dir = TempDir::new().unwrap();
        for (name, contents) in files {
            fs::write(dir.path().join(name), contents).unwrap();
        }
        // Free now; nginx cannot tell which port it was given.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {what};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log warn;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\naccess_log off;\n{temporary}default_type text/plain;\n\
             keepalive_requests 100000;\nlarge_client_header_buffers 8 64k;\n\
             client_max_body_size 64m;\n\
             server {{\nlisten {address} {listen};\nroot html;\n{server}\n}}\n}}\n"
        );
        fs::write(dir.path().join("nginx.conf"), config).unwrap();
        fs::create_dir(dir.path().join("html")).unwrap();
        let mut child = Command::new("nginx")
            .args(["-p", dir.path().to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        eventually("nginx listens", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", log(&dir));
            TcpStream::connect(address).is_ok()
        });
        Nginx { child, dir, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts a file where `GET /<name>` finds it.
    pub fn serve(&self, name: &str, contents: &[u8]) {
        fs::write(self.dir.path().join("html").join(name), contents).unwrap();
    }

    /// What it has complained about.
    pub fn log(&self) -> String {
        log(&self.dir)
    }
}

fn log(dir: &TempDir) -> String {
    fs::read_to_string(dir.path().join("error.log")).unwrap_or_default()
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
