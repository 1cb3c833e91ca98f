//! Tokens that hold, and all the ways in which one does not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use km_api::key_set::{KeySet, TokenKey};
use km_api::token::{Claims, Expected, Token, TokenError, verify};
use km_package::name::{CustomerId, PluginName};
use km_package::tier::Tier;
use serde_json::json;

const NOW: i64 = 1_795_305_600;

/// An issuer with one key.
struct Issuer {
    key: EncodingKey,
    public: TokenKey,
    bytes: Vec<u8>,
    keys: KeySet,
}

fn issuer() -> Issuer {
    let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let bytes = pair.public_key().as_ref().to_vec();
    let public = TokenKey::new(&bytes.clone().try_into().unwrap());
    let keys = KeySet { issuer: "issuer".to_owned(), keys: vec![public.clone()] };
    Issuer { key: EncodingKey::from_ed_der(document.as_ref()), public, bytes, keys }
}

fn claims() -> Claims {
    let customer: CustomerId = "customer_123".parse().unwrap();
    Claims {
        iss: "issuer".to_owned(),
        sub: customer.clone(),
        customer_id: customer,
        aud: "api-logger".parse().unwrap(),
        tier: Tier::Pro,
        features: vec!["api_logging".to_owned()],
        iat: NOW,
        nbf: NOW,
        exp: NOW + 900,
        jti: "1".to_owned(),
    }
}

impl Issuer {
    fn sign(&self, claims: &impl serde::Serialize) -> Token {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.public.id().to_owned());
        Token::new(encode(&header, claims, &self.key).unwrap())
    }

    fn check(&self, token: &Token) -> Result<Claims, TokenError> {
        self.check_at(token, NOW)
    }

    fn check_at(&self, token: &Token, now: i64) -> Result<Claims, TokenError> {
        let plugin: PluginName = "api-logger".parse().unwrap();
        let customer: CustomerId = "customer_123".parse().unwrap();
        verify(token, &self.keys, &Expected { plugin: &plugin, customer: Some(&customer), now })
    }
}

/// A token of these parts, signed by nobody.
fn parts(header: serde_json::Value, claims: &Claims, signature: &[u8]) -> Token {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let claims = serde_json::to_vec(claims).unwrap();
    Token::new(format!("{}.{}.{}", part(header.to_string().as_bytes()), part(&claims), part(signature)))
}

#[test]
fn a_token_holds_for_the_one_it_was_issued_for() {
    let issuer = issuer();
    assert_eq!(issuer.check(&issuer.sign(&claims())), Ok(claims()));
    // The rotated key still checks.
    let mut both = self::issuer();
    both.keys.keys.push(issuer.public.clone());
    assert!(both.check(&issuer.sign(&claims())).is_ok());
}

#[test]
fn no_algorithm_but_eddsa_is_taken() {
    let issuer = issuer();
    let kid = issuer.public.id();
    for algorithm in ["none", "None", "NONE", "", "HS999"] {
        let token = parts(json!({"alg": algorithm, "kid": kid}), &claims(), b"");
        assert_eq!(issuer.check(&token), Err(TokenError::Algorithm), "{algorithm}");
    }
    // The public key as the secret of an HMAC: raw, in base64url, as PEM of its SPKI.
    let spki = [&b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"[..], &issuer.bytes].concat();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        base64::engine::general_purpose::STANDARD.encode(spki)
    );
    let encoded = URL_SAFE_NO_PAD.encode(&issuer.bytes);
    for secret in [&issuer.bytes, encoded.as_bytes(), pem.as_bytes()] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        let token = encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(issuer.check(&Token::new(token)), Err(TokenError::Algorithm));
    }
}

#[test]
fn only_the_issuer_s_own_keys_count() {
    let (issuer, other) = (issuer(), issuer());
    assert_eq!(issuer.check(&other.sign(&claims())), Err(TokenError::UnknownKey));
    let header = json!({"alg": "EdDSA"});
    assert_eq!(issuer.check(&parts(header, &claims(), &[0; 64])), Err(TokenError::UnknownKey));
    // Another's signature under the issuer's key id; and one that brings its own key along.
    let header =
        json!({"alg": "EdDSA", "kid": issuer.public.id(), "jwk": other.public, "jku": "http://127.0.0.1/"});
    let foreign = other.sign(&claims());
    let signature = URL_SAFE_NO_PAD.decode(foreign.reveal().rsplit('.').next().unwrap()).unwrap();
    assert_eq!(issuer.check(&parts(header, &claims(), &signature)), Err(TokenError::Signature));
}

#[test]
fn every_changed_byte_is_noticed() {
    let issuer = issuer();
    let token = issuer.sign(&claims());
    for at in 0..token.reveal().len() {
        let mut bytes = token.reveal().as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = Token::new(String::from_utf8(bytes).unwrap());
        assert!(issuer.check(&changed).is_err(), "byte {at}");
    }
    for end in 0..token.reveal().len() {
        assert!(issuer.check(&Token::new(token.reveal()[..end].to_owned())).is_err(), "{end} bytes");
    }
}

#[test]
fn what_it_says_must_be_meant_for_its_holder() {
    let issuer = issuer();
    let changed = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        issuer.check(&issuer.sign(&claims)).unwrap_err()
    };
    assert_eq!(changed(|c| c.iss = "other".to_owned()), TokenError::Issuer("other".to_owned()));
    let other: PluginName = "console-logger".parse().unwrap();
    assert_eq!(changed(|c| c.aud = "console-logger".parse().unwrap()), TokenError::Audience(other));
    let other: CustomerId = "other".parse().unwrap();
    assert_eq!(changed(|c| c.customer_id = "other".parse().unwrap()), TokenError::Customer(other.clone()));
    assert_eq!(changed(|c| c.sub = "other".parse().unwrap()), TokenError::Customer(other));
    for missing in ["iss", "sub", "customer_id", "aud", "tier", "features", "iat", "nbf", "exp", "jti"] {
        let mut claims = serde_json::to_value(claims()).unwrap();
        claims.as_object_mut().unwrap().remove(missing);
        let error = issuer.check(&issuer.sign(&claims)).unwrap_err();
        assert!(matches!(error, TokenError::Malformed(_)), "{missing}: {error:?}");
    }
}

#[test]
fn it_is_valid_in_its_time_give_or_take_a_minute() {
    let issuer = issuer();
    let token = issuer.sign(&claims());
    for now in [NOW - 60, NOW, NOW + 899, NOW + 959] {
        assert!(issuer.check_at(&token, now).is_ok(), "{now}");
    }
    assert_eq!(issuer.check_at(&token, NOW - 600), Err(TokenError::NotYet(600)));
    assert_eq!(issuer.check_at(&token, NOW - 61), Err(TokenError::NotYet(61)));
    assert_eq!(issuer.check_at(&token, NOW + 960), Err(TokenError::Expired(60)));
    let endless = Claims { exp: i64::MAX, nbf: i64::MIN, iat: i64::MIN, ..claims() };
    assert!(issuer.check_at(&issuer.sign(&endless), i64::MAX - 1).is_ok());
}

#[test]
fn what_is_no_token_is_refused_however_long() {
    let issuer = issuer();
    for text in ["", ".", "..", "a.b.c", "\u{0}", &"x".repeat(1 << 20), &".".repeat(1 << 20)] {
        assert!(issuer.check(&Token::new(text.to_owned())).is_err());
    }
}
