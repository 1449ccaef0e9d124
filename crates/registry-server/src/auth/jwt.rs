//! Signed tokens: the part of JSON Web Tokens that a registry needs, and no more.
//!
//! Contract of [`Verifier::verify`]: the keys come from the configuration, each with the one algorithm it is for. Of a
//! token's header only `alg` is read, and only to choose among those keys; `jwk`, `x5c`, `jku` and `kid` are bytes that
//! mean nothing here, and a header with `crit` is refused, because its author insists on what is not done here. The
//! work is linear in a length that is bounded before the first byte is looked at; nothing of the claims is parsed before
//! the signature is right.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{self, Ed25519KeyPair, KeyPair as _, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use wharf_linux::hostfs;

use crate::watched::{Refused, text};

/// The most bytes of a token. Those of the largest public registries have some 4 KiB.
pub(crate) const MAX_TOKEN: usize = 32 << 10;
/// The most keys a signature is checked with.
const MAX_KEYS: usize = 16;
/// How far two machines' clocks may be apart, in seconds.
const LEEWAY: u64 = 60;

/// A token is not to be believed. One text for its bearer, the reason for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unbelievable {
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    #[error("the token is malformed")]
    Malformed,
    #[error("the token's header has critical extensions")]
    Critical,
    #[error("no configured key is for the token's algorithm")]
    Algorithm,
    #[error("no configured key made the token's signature")]
    Signature,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token is for another service")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    #[serde(default)]
    pub(crate) sub: String,
    pub(crate) aud: Audience,
    pub(crate) exp: u64,
    #[serde(default)]
    pub(crate) nbf: u64,
    #[serde(default)]
    pub(crate) iat: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) jti: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) access: Vec<Access>,
    /// What a refresh token is bound to: it ends with the password it was given for.
    #[serde(default, rename = "wharf.password", skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
}

/// One service or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn has(&self, service: &str) -> bool {
        match self {
            Self::One(one) => one == service,
            Self::Many(many) => many.iter().any(|one| one == service),
        }
    }
}

/// What a token lets its bearer do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) actions: Vec<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

/// Makes tokens, with a key of our own.
pub(crate) struct Signer(Ed25519KeyPair);

impl Signer {
    /// The key in `path`, made there at the first start.
    pub(crate) fn open(path: &Path) -> Result<Self, Refused> {
        if !hostfs::exists(path)? {
            let random = SystemRandom::new();
            let key = Ed25519KeyPair::generate_pkcs8(&random)
                .map_err(|_| Refused::file(path, "the kernel gives no random numbers"))?;
            hostfs::write_atomic(path, pem("PRIVATE KEY", key.as_ref()).as_bytes(), 0o600)?;
        }
        let bad = || {
            Refused::file(
                path,
                "is no Ed25519 key in PKCS#8 form: remove it, and the next start makes a new one",
            )
        };
        let der = unpem("PRIVATE KEY", &text(path)?).ok_or_else(bad)?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self).map_err(|_| bad())
    }

    /// The key that verifies what this one signs.
    pub(crate) fn key(&self) -> Key {
        Key::Ed25519(self.0.public_key().as_ref().to_vec())
    }

    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let header = encode(br#"{"typ":"JWT","alg":"EdDSA"}"#);
        // A struct of strings and numbers has a JSON form.
        let claims = encode(&serde_json::to_vec(claims).unwrap_or_default());
        let message = format!("{header}.{claims}");
        let signature = encode(self.0.sign(message.as_bytes()).as_ref());
        format!("{message}.{signature}")
    }
}

/// A public key, which is for one algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Ed25519(Vec<u8>),
    P256(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl Key {
    /// The algorithm's name in a token's header.
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::P256(_) => "ES256",
            Self::Rsa { .. } => "RS256",
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            Self::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature),
            Self::P256(key) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key).verify(message, signature)
            }
            Self::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &signature::RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
        };
        verified.is_ok()
    }

    /// The keys of a file: public keys in PEM form, or a JSON Web Key Set.
    pub(crate) fn read(path: &Path) -> Result<Vec<Self>, Refused> {
        let text = text(path)?;
        let keys = if text.trim_start().starts_with('{') { from_jwks(&text) } else { from_pem(&text) };
        let keys = keys.map_err(|why| Refused::file(path, why))?;
        match keys.len() {
            0 => Err(Refused::file(
                path,
                "has no public key: expected `-----BEGIN PUBLIC KEY-----` (of a certificate: openssl x509 -noout \
                 -pubkey) or a JSON Web Key Set",
            )),
            1..=MAX_KEYS => Ok(keys),
            more => Err(Refused::file(path, format!("has {more} keys: at most {MAX_KEYS} are tried"))),
        }
    }
}

/// Decides which tokens to believe.
pub(crate) struct Verifier {
    pub(crate) keys: Vec<Key>,
    pub(crate) issuer: String,
    pub(crate) audience: String,
}

impl Verifier {
    /// The claims of a token of the right issuer, for the right audience, at the right time.
    pub(crate) fn verify(&self, token: &str, now: u64) -> Result<Claims, Unbelievable> {
        if token.len() > MAX_TOKEN {
            return Err(Unbelievable::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Unbelievable::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(Unbelievable::Malformed)?;
        let header: Header = parse(header)?;
        if header.crit.is_some() {
            return Err(Unbelievable::Critical);
        }
        let mut keys = self.keys.iter().filter(|key| key.algorithm() == header.alg).peekable();
        keys.peek().ok_or(Unbelievable::Algorithm)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Unbelievable::Malformed)?;
        if !keys.any(|key| key.verifies(message.as_bytes(), &signature)) {
            return Err(Unbelievable::Signature);
        }
        let claims: Claims = parse(claims)?;
        if claims.iss != self.issuer {
            return Err(Unbelievable::Issuer);
        }
        if !claims.aud.has(&self.audience) {
            return Err(Unbelievable::Audience);
        }
        if claims.exp.saturating_add(LEEWAY) <= now {
            return Err(Unbelievable::Expired);
        }
        if claims.nbf > now.saturating_add(LEEWAY) {
            return Err(Unbelievable::Early);
        }
        Ok(claims)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, Unbelievable> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Unbelievable::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Unbelievable::Malformed)
}

/// base64url without padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// The first block of that label.
fn unpem(label: &str, text: &str) -> Option<Vec<u8>> {
    blocks(label, text).next()?.ok()
}

fn blocks<'a>(label: &'a str, text: &'a str) -> impl Iterator<Item = Result<Vec<u8>, String>> + 'a {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&begin)?;
        let Some((body, after)) = after.split_once(&end) else {
            rest = "";
            return Some(Err(format!("a {label} block does not end")));
        };
        rest = after;
        let body: String = body.split_whitespace().collect();
        Some(STANDARD.decode(body).map_err(|error| format!("a {label} block is not base64: {error}")))
    })
}

fn from_pem(text: &str) -> Result<Vec<Key>, String> {
    let unknown = || "a public key is neither Ed25519 nor P-256 nor RSA".to_owned();
    blocks("PUBLIC KEY", text).map(|der| from_spki(&der?).ok_or_else(unknown)).collect()
}

/// `SubjectPublicKeyInfo`: the algorithm, then the key as a bit string.
fn from_spki(der: &[u8]) -> Option<Key> {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 0x02;
    const BIT_STRING: u8 = 0x03;
    const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
    const P256: &[u8] = &[
        0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
        0x01, 0x07,
    ];
    const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let (outer, []) = element(SEQUENCE, der)? else { return None };
    let (algorithm, rest) = element(SEQUENCE, outer)?;
    let ([0, key @ ..], []) = element(BIT_STRING, rest)? else { return None };
    match algorithm {
        ED25519 => Some(Key::Ed25519(key.to_vec())),
        P256 => Some(Key::P256(key.to_vec())),
        RSA => {
            let (numbers, []) = element(SEQUENCE, key)? else { return None };
            let (n, rest) = element(INTEGER, numbers)?;
            let (e, []) = element(INTEGER, rest)? else { return None };
            Some(Key::Rsa { n: unsigned(n), e: unsigned(e) })
        }
        _ => None,
    }
}

/// Splits off one DER element: its content, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match *der {
        [found, length @ 0..=0x7f, ref rest @ ..] if found == tag => (usize::from(length), rest),
        [found, 0x81, length, ref rest @ ..] if found == tag => (usize::from(length), rest),
        [found, 0x82, high, low, ref rest @ ..] if found == tag => {
            (usize::from(u16::from_be_bytes([high, low])), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// A big-endian number without leading zeros, as ring wants it.
fn unsigned(number: &[u8]) -> Vec<u8> {
    number.iter().copied().skip_while(|byte| *byte == 0).collect()
}

fn from_jwks(text: &str) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Jwk>,
    }
    #[derive(Deserialize)]
    struct Jwk {
        kty: String,
        #[serde(default)]
        crv: String,
        #[serde(default)]
        x: String,
        #[serde(default)]
        y: String,
        #[serde(default)]
        n: String,
        #[serde(default)]
        e: String,
    }
    let set: Set = serde_json::from_str(text).map_err(|error| format!("is no JSON Web Key Set: {error}"))?;
    let number =
        |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|error| format!("a key is not base64url: {error}"));
    set.keys
        .iter()
        .map(|key| match (key.kty.as_str(), key.crv.as_str()) {
            ("OKP", "Ed25519") => Ok(Key::Ed25519(number(&key.x)?)),
            ("EC", "P-256") => Ok(Key::P256([&[4][..], &number(&key.x)?, &number(&key.y)?].concat())),
            ("RSA", _) => Ok(Key::Rsa { n: unsigned(&number(&key.n)?), e: unsigned(&number(&key.e)?) }),
            (kind, curve) => {
                Err(format!("a key is of kind {kind:?} {curve:?}: expected OKP Ed25519, EC P-256 or RSA"))
            }
        })
        .collect()
}

/// Whether a token is believed that nobody signed: never.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_token(token: &str) -> bool {
    let keys = vec![
        Key::Ed25519(vec![7; 32]),
        Key::P256([&[4], &[9; 64][..]].concat()),
        Key::Rsa { n: vec![0xc1; 256], e: vec![1, 0, 1] },
    ];
    let verifier = Verifier { keys, issuer: "i".to_owned(), audience: "a".to_owned() };
    if let Some((_, claims)) = token.split_once('.') {
        let _ = parse::<Claims>(claims);
    }
    let (_, _) = (from_jwks(token), from_pem(token));
    verifier.verify(token, 1_700_000_000).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

    const NOW: u64 = 1_800_000_000;

    fn claims() -> Claims {
        Claims {
            iss: "issuer".into(),
            sub: "alice".into(),
            aud: Audience::One("registry".into()),
            exp: NOW + 300,
            nbf: NOW,
            iat: NOW,
            jti: String::new(),
            access: vec![Access {
                kind: "repository".into(),
                name: "a".into(),
                actions: vec!["pull".into()],
            }],
            password: None,
        }
    }

    fn signer() -> (Signer, Verifier) {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(&dir.path().join("key.pem")).unwrap();
        let verifier =
            Verifier { keys: vec![signer.key()], issuer: "issuer".into(), audience: "registry".into() };
        (signer, verifier)
    }

    /// A token with this header and these claims, signed over exactly these bytes.
    fn forged(signer: &Signer, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
        format!("{message}.{}", encode(signer.0.sign(message.as_bytes()).as_ref()))
    }

    #[test]
    fn what_was_signed_is_believed_and_the_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let first = Signer::open(&path).unwrap();
        let again = Signer::open(&path).unwrap();
        let verifier =
            Verifier { keys: vec![again.key()], issuer: "issuer".into(), audience: "registry".into() };
        assert_eq!(verifier.verify(&first.sign(&claims()), NOW), Ok(claims()));
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn rs_03_keys_come_from_the_configuration_only() {
        let (_, verifier) = signer();
        let (thief, _) = signer();
        let Key::Ed25519(public) = thief.key() else { unreachable!() };
        let x = encode(&public);
        let body = serde_json::to_string(&claims()).unwrap();
        for header in [
            r#"{"alg":"EdDSA"}"#.to_owned(),
            format!(r#"{{"alg":"EdDSA","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}}}"#),
            r#"{"alg":"EdDSA","x5c":["MIIB"]}"#.to_owned(),
            r#"{"alg":"EdDSA","jku":"http://127.0.0.1/keys","x5u":"http://127.0.0.1/"}"#.to_owned(),
            r#"{"alg":"EdDSA","kid":"../../../dev/null"}"#.to_owned(),
            r#"{"alg":"EdDSA","kid":"' OR 1=1 --"}"#.to_owned(),
        ] {
            assert_eq!(
                verifier.verify(&forged(&thief, &header, &body), NOW),
                Err(Unbelievable::Signature),
                "{header}"
            );
        }
    }

    #[test]
    fn rs_03_each_key_has_one_algorithm() {
        let (signer, verifier) = signer();
        let Key::Ed25519(public) = signer.key() else { unreachable!() };
        let body = serde_json::to_string(&claims()).unwrap();
        for algorithm in
            ["none", "None", "NONE", "nOnE", "", "HS256", "HS512", "ES256", "RS256", "eddsa", "EdDSA "]
        {
            let message = format!(
                "{}.{}",
                encode(format!(r#"{{"alg":"{algorithm}"}}"#).as_bytes()),
                encode(body.as_bytes())
            );
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &public);
            let by_public_key = encode(ring::hmac::sign(&key, message.as_bytes()).as_ref());
            let by_signer = encode(signer.0.sign(message.as_bytes()).as_ref());
            for signature in ["", &by_public_key, &by_signer] {
                let token = format!("{message}.{signature}");
                assert_eq!(verifier.verify(&token, NOW), Err(Unbelievable::Algorithm), "{algorithm}");
            }
        }
        for header in [r#"{"alg":"EdDSA","crit":["exp"]}"#, r#"{"alg":"EdDSA","crit":[]}"#] {
            assert_eq!(verifier.verify(&forged(&signer, header, &body), NOW), Err(Unbelievable::Critical));
        }
        let twice = forged(&signer, r#"{"alg":"EdDSA","alg":"none"}"#, &body);
        assert_eq!(verifier.verify(&twice, NOW), Err(Unbelievable::Malformed));
    }

    #[test]
    fn rs_03_issuer_audience_and_time_are_checked() {
        let (signer, verifier) = signer();
        type Case = (fn(&mut Claims), Option<Unbelievable>);
        let cases: [Case; 9] = [
            (|_| {}, None),
            (|claims| claims.aud = Audience::Many(vec!["x".into(), "registry".into()]), None),
            (|claims| claims.iss = "issuer2".into(), Some(Unbelievable::Issuer)),
            (|claims| claims.aud = Audience::One("registry2".into()), Some(Unbelievable::Audience)),
            (|claims| claims.aud = Audience::Many(vec![]), Some(Unbelievable::Audience)),
            (|claims| claims.exp = NOW - LEEWAY, Some(Unbelievable::Expired)),
            (|claims| claims.exp = 0, Some(Unbelievable::Expired)),
            (|claims| claims.nbf = NOW + LEEWAY + 1, Some(Unbelievable::Early)),
            (|claims| claims.exp = u64::MAX, None),
        ];
        for (number, (change, wanted)) in cases.into_iter().enumerate() {
            let mut claims = claims();
            change(&mut claims);
            assert_eq!(verifier.verify(&signer.sign(&claims), NOW).err(), wanted, "case {number}");
        }
        let mut eternal = serde_json::to_value(claims()).unwrap();
        eternal.as_object_mut().unwrap().remove("exp");
        let token = forged(&signer, r#"{"alg":"EdDSA"}"#, &eternal.to_string());
        assert_eq!(verifier.verify(&token, NOW), Err(Unbelievable::Malformed), "a token without an end");
    }

    #[test]
    fn rs_03_every_changed_byte_breaks_the_token() {
        let (signer, verifier) = signer();
        let token = signer.sign(&claims());
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verifier.verify(&changed, NOW).is_err(), "byte {at}");
        }
        for at in 0..token.len() {
            assert!(verifier.verify(&token[..at], NOW).is_err(), "cut at {at}");
        }
        assert!(verifier.verify(&format!("{token}="), NOW).is_err());
        assert!(verifier.verify(&format!("{token}."), NOW).is_err());
    }

    #[test]
    fn rs_03_length_is_looked_at_first_and_dots_cost_nothing() {
        let (_, verifier) = signer();
        assert_eq!(verifier.verify(&".".repeat(1 << 20), NOW), Err(Unbelievable::TooLong));
        // At the bound: two splits and one failed decoding, whatever the number of dots.
        assert_eq!(verifier.verify(&".".repeat(MAX_TOKEN), NOW), Err(Unbelievable::Malformed));
        let deep = encode("[".repeat(20_000).as_bytes());
        assert_eq!(verifier.verify(&format!("{deep}.x.x"), NOW), Err(Unbelievable::Malformed));
    }

    #[test]
    fn keys_of_other_services_are_read() {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let prefix = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let jwks = format!(
            r#"{{"keys":[{{"kty":"EC","crv":"P-256","alg":"ES256","kid":"1","x":"{}","y":"{}"}}]}}"#,
            encode(&point[1..33]),
            encode(&point[33..])
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        for file in [pem("PUBLIC KEY", &[&prefix[..], point].concat()), jwks] {
            std::fs::write(&path, file).unwrap();
            let keys = Key::read(&path).unwrap();
            let verifier = Verifier { keys, issuer: "issuer".into(), audience: "registry".into() };
            let body = serde_json::to_string(&claims()).unwrap();
            let message = format!("{}.{}", encode(br#"{"alg":"ES256"}"#), encode(body.as_bytes()));
            let signature = pair.sign(&random, message.as_bytes()).unwrap();
            let token = format!("{message}.{}", encode(signature.as_ref()));
            assert_eq!(verifier.verify(&token, NOW), Ok(claims()));
        }
        for (text, wanted) in [
            ("", "has no public key"),
            ("{}", "is no JSON Web Key Set"),
            (r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#, "a key is of kind \"oct\""),
            (
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
                "neither Ed25519 nor P-256 nor RSA",
            ),
            ("-----BEGIN PUBLIC KEY-----\nAAAA", "does not end"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = Key::read(&path).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
    }

    #[test]
    fn an_rsa_key_is_taken_out_of_its_wrapping() {
        // Two small numbers in the shape of a key.
        let numbers = [0x30, 0x09, 0x02, 0x02, 0x00, 0xf1, 0x02, 0x03, 0x01, 0x00, 0x01];
        let mut der =
            vec![0x30, 0x1d, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
        der.extend([0x05, 0x00, 0x03, 0x0c, 0x00]);
        der.extend(numbers);
        assert_eq!(from_spki(&der), Some(Key::Rsa { n: vec![0xf1], e: vec![1, 0, 1] }));
        for at in 0..der.len() {
            assert_eq!(from_spki(&der[..at]), None, "cut at {at}");
        }
    }
}
