//! Mutual TLS between two processes that have just met ("AutoMTLS").
//!
//! Each side makes a key and a self-signed certificate for this one process and hands the
//! certificate over before the connection: the host in the plugin's environment, the plugin in its
//! handshake line. Each side then accepts exactly that certificate, byte for byte, from the other.
//! Chains, names and dates say nothing here, and a WebPKI verifier would refuse what Go plugins
//! send (a CA certificate as the end entity). Whoever presents the certificate must still prove by
//! its signature that it holds the key: on any curve, since Go plugins use P-521.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName as RustlsName, Error,
    ServerConfig, SignatureScheme,
};

/// The name in every certificate, and the one that is asked for.
pub(crate) const SERVER_NAME: &str = "localhost";
/// gRPC peers written in Go insist on it.
const ALPN: &[u8] = b"h2";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No key or certificate could be made.
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// rustls refused the configuration.
    #[error("cannot set up TLS: {0}")]
    Config(#[from] Error),
    /// What the other side sent is not a certificate.
    #[error("the other side's certificate cannot be read")]
    PeerCertificate,
}

/// A certificate and its key, for the life of one process.
#[derive(Debug)]
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    pem: String,
    key: PrivateKeyDer<'static>,
}

/// How two processes that know each other's certificates secure a connection, whoever dials.
#[derive(Debug, Clone)]
pub(crate) struct Security {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl Identity {
    /// A new P-256 key and a certificate in the shape that go-plugin gives its own (`mtls.go`).
    pub(crate) fn generate() -> Result<Self, TlsError> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, SERVER_NAME);
        name.push(DnType::OrganizationName, "HashiCorp");
        parameters.distinguished_name = name;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
            KeyUsagePurpose::KeyCertSign,
        ];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = parameters.self_signed(&key)?;
        Ok(Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// As a host hands it to a plugin: PEM in the environment.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// As a plugin hands it to a host: DER in base64 without padding.
    pub(crate) fn handshake_field(&self) -> String {
        STANDARD_NO_PAD.encode(&self.certificate)
    }

    /// For connections with the one process that presents `peer`, whoever dials.
    pub(crate) fn security(&self, peer: CertificateDer<'static>) -> Result<Security, TlsError> {
        Ok(Security { client: self.client_config(peer.clone())?, server: self.server_config(peer)? })
    }

    fn client_config(&self, peer: CertificateDer<'static>) -> Result<Arc<ClientConfig>, TlsError> {
        let pinned = Pinned::new(peer);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&pinned.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned))
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    fn server_config(&self, peer: CertificateDer<'static>) -> Result<Arc<ServerConfig>, TlsError> {
        let pinned = Pinned::new(peer);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&pinned.provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(pinned))
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }
}

/// The certificate in a plugin's handshake line. Go writes it without padding; both are read.
pub(crate) fn certificate_of_field(field: &str) -> Result<CertificateDer<'static>, TlsError> {
    let der = STANDARD_NO_PAD.decode(field).or_else(|_| STANDARD.decode(field));
    der.map(CertificateDer::from).map_err(|_| TlsError::PeerCertificate)
}

/// The certificate that a host put into the environment.
pub(crate) fn certificate_of_pem(pem: &str) -> Result<CertificateDer<'static>, TlsError> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| TlsError::PeerCertificate)
}

/// Accepts one certificate, as client or as server, and whoever proves to hold its key.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn new(certificate: CertificateDer<'static>) -> Self {
        Self { certificate, provider: Arc::new(aws_lc_rs::default_provider()) }
    }

    fn check(&self, presented: &CertificateDer<'_>) -> Result<(), Error> {
        if *presented == self.certificate {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        presented: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(presented).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[RustlsName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        presented: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(presented).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    async fn meet(
        client: &Identity,
        expected_server: &Identity,
        server: &Identity,
        expected_client: &Identity,
    ) -> bool {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector =
            TlsConnector::from(client.client_config(expected_server.certificate.clone()).unwrap());
        let acceptor = TlsAcceptor::from(server.server_config(expected_client.certificate.clone()).unwrap());
        let serve = async {
            let mut stream = acceptor.accept(far).await.ok()?;
            stream.write_all(b"hello").await.ok()
        };
        let dial = async {
            let name = ServerName::try_from(SERVER_NAME).unwrap();
            let mut stream = connector.connect(name, near).await.ok()?;
            let mut text = [0; 5];
            stream.read_exact(&mut text).await.ok()?;
            (&text == b"hello").then_some(())
        };
        let (served, dialled) = tokio::join!(serve, dial);
        served.is_some() && dialled.is_some()
    }

    #[tokio::test]
    async fn each_side_accepts_the_one_certificate_it_was_given() {
        let (host, plugin, stranger) =
            (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
        assert!(meet(&host, &plugin, &plugin, &host).await);
        assert!(!meet(&host, &plugin, &stranger, &host).await, "another server");
        assert!(!meet(&stranger, &plugin, &plugin, &host).await, "another client");
    }

    #[test]
    fn certificates_travel_as_text() {
        let identity = Identity::generate().unwrap();
        assert_eq!(certificate_of_pem(identity.pem()).unwrap(), identity.certificate);
        assert_eq!(certificate_of_field(&identity.handshake_field()).unwrap(), identity.certificate);
        assert!(certificate_of_field("not base64!").is_err());
        assert!(certificate_of_pem("no PEM").is_err());
    }
}
