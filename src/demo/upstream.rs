//! The platform behind the demo's edge: says back what it was asked.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

/// Starts it on a free port of the loopback, for the life of the process.
pub fn start() -> io::Result<SocketAddr> {
    let socket = TcpListener::bind("127.0.0.1:0")?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo-platform".into()).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(socket) else { return };
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(http1::Builder::new().serve_connection(
                    TokioIo::new(tcp),
                    service_fn(|request| async move { Ok::<_, Infallible>(echo(&request)) }),
                ));
            }
        });
    })?;
    Ok(address)
}

fn echo(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut text = format!("The platform got: {} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("  {name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    Response::new(Full::new(text.into()))
}
