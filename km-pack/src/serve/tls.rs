//! TLS: rustls with aws-lc-rs.

use std::path::Path;
use std::sync::Arc;

use km_package::failure::{Failure, Kind};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{Error, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What takes part in handshakes with these certificates and this key, in PEM.
pub(super) fn acceptor(certificates: &Path, key: &Path) -> Result<TlsAcceptor, Failure> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect)
        .map_err(|e| unreadable("the certificates", certificates, e))?;
    if chain.is_empty() {
        return Err(unreadable("the certificates", certificates, Error::NoItemsFound));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("the key", key, e))?;
    let unusable = |e| {
        let pair = format_args!("{} and {}: {e}", certificates.display(), key.display()).to_string();
        Failure::new(Kind::Failed, pair)
            .help("--tls-cert takes the server's certificate first, --tls-key its key")
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn unreadable(what: &str, path: &Path, error: Error) -> Failure {
    match error {
        Error::Io(e) => Failure::file(&format!("read {what}"), path, &e),
        // Nothing of the file is repeated: it may be a key.
        Error::NoItemsFound => {
            Failure::new(Kind::Failed, format_args!("{} has nothing in PEM that is {what}", path.display()))
        }
        _ => Failure::new(Kind::Failed, format_args!("{} is not PEM", path.display())),
    }
}
