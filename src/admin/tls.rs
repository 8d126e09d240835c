//! TLS of the admin port: a context of its own, which shares nothing with the devices' one.

use std::sync::Arc;

use boring::asn1::Asn1StringRef;
use boring::nid::Nid;
use boring::ssl::{
    SslAcceptor, SslMethod, SslOptions, SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use boring::x509::store::X509StoreBuilder;
use boring::x509::{X509, X509Ref};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_boring::SslStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::AdminFault;
use crate::admin_settings::AdminTls;
use crate::clock::UnixSeconds;
use crate::server_certificate::ServerCertificate;

/// Takes TLS connections.
pub struct Tls {
    acceptor: SslAcceptor,
    wants_client_certificate: bool,
}

impl Tls {
    /// # Errors
    /// Where the certificate, its key or the CA cannot be used.
    pub fn new(settings: &AdminTls) -> Result<Tls, AdminFault> {
        let certificate = ServerCertificate::from_pem(&settings.chain, &settings.key)?;
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        builder.add_credential(certificate.credential())?;
        // Every connection makes a full handshake: a client certificate is seen each time.
        builder.set_options(SslOptions::NO_TICKET);
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        let ca = match &settings.client_ca {
            Some(pem) => X509::stack_from_pem(pem).map_err(|_| AdminFault::ClientCa)?,
            None => Vec::new(),
        };
        if settings.client_ca.is_some() {
            if ca.is_empty() {
                return Err(AdminFault::ClientCa);
            }
            let mut store = X509StoreBuilder::new()?;
            for certificate in ca {
                builder.add_client_ca(&certificate)?;
                store.add_cert(&certificate)?;
            }
            builder.set_verify_cert_store(store.build())?;
            // Who shows none may have a token, or may want the probes alone.
            builder.set_verify(SslVerifyMode::PEER);
        }
        Ok(Tls {
            acceptor: builder.build(),
            wants_client_certificate: settings.client_ca.is_some(),
        })
    }

    /// The handshake. Gives the client's certificate, where one is asked for and shown.
    ///
    /// # Errors
    /// Why the peer is refused.
    pub async fn accept<S>(
        &self,
        stream: S,
    ) -> Result<(SslStream<S>, Option<ClientCertificate>), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = tokio_boring::accept(&self.acceptor, stream)
            .await
            .map_err(|error| error.to_string())?;
        if !self.wants_client_certificate {
            return Ok((stream, None));
        }
        let Some(certificate) = stream.ssl().peer_certificate() else { return Ok((stream, None)) };
        let not_after = end_for_clients(&certificate)
            .ok_or("the extended key usage of the client's certificate lacks clientAuth")?;
        let name = common_name(&certificate);
        let common_name = name.ok_or("the client's certificate has not exactly one common name")?;
        Ok((stream, Some(ClientCertificate { common_name, not_after })))
    }
}

/// A certificate of the CA for clients that TLS has verified.
#[derive(Debug)]
pub struct ClientCertificate {
    pub common_name: Arc<str>,
    pub not_after: UnixSeconds,
}

/// The end of its validity, where the certificate is one for clients. BoringSSL takes one
/// without an extended key usage for one of any use; an operator's says what it is for.
fn end_for_clients(certificate: &X509Ref) -> Option<UnixSeconds> {
    let der = certificate.to_der().ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let usage = certificate.extended_key_usage().ok()??;
    usage.value.client_auth.then(|| certificate.validity().not_after.timestamp())
}

fn common_name(certificate: &X509Ref) -> Option<Arc<str>> {
    let mut names = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
    match (names.next(), names.next()) {
        (Some(name), None) => {
            let name: &Asn1StringRef = name.data();
            name.as_utf8().ok().map(|name| Arc::from(name.to_string()))
        }
        _ => None,
    }
}
