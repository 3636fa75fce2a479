//! Service account tokens: JSON web tokens signed with the server's own key (ES256), and the keys to check them with.
//!
//! Knows how a token is made and whether it is one of ours; not whether what it is bound to still lives.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde_json::{Value, json};

/// The issuer of tokens, and the audience of those that ask for none.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The key cannot sign.
#[derive(Debug, thiserror::Error)]
#[error("the key for service account tokens cannot be used: {0}")]
pub struct KeyError(String);

/// Signs tokens and checks them.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    /// The header of every token, encoded.
    header: String,
    id: String,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl TokenKey {
    /// The key of these PKCS #8 bytes (DER).
    ///
    /// # Errors
    /// [`KeyError`] when they hold no P-256 key.
    pub fn new(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|e| KeyError(e.to_string()))?;
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, pair.public_key().as_ref()));
        let header = encode(&json!({"alg": "ES256", "kid": id, "typ": "JWT"}));
        Ok(Self { pair, random, header, id })
    }

    /// A token that says `claims`.
    ///
    /// # Errors
    /// [`KeyError`] when the machine has no random numbers.
    pub fn sign(&self, claims: &Value) -> Result<String, KeyError> {
        let signed = format!("{}.{}", self.header, encode(claims));
        let signature =
            self.pair.sign(&self.random, signed.as_bytes()).map_err(|e| KeyError(e.to_string()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a token of ours says; nothing for any other text. Times and audiences are the caller's to judge.
    pub fn claims(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        if header != self.header {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// The key set that others check tokens with (`/openid/v1/jwks`).
    pub fn key_set(&self) -> Value {
        // An uncompressed point: a mark, then both coordinates.
        let point = self.pair.public_key().as_ref();
        let half = |range| point.get(range).map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).unwrap_or_default();
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": half(1..33), "y": half(33..65),
        }]})
    }
}

/// `/.well-known/openid-configuration`, of a server reached at `url`.
pub fn discovery(url: &str) -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("{url}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        TokenKey::new(&rcgen::KeyPair::generate().unwrap().serialize_der()).unwrap()
    }

    #[test]
    fn a_token_says_what_was_signed_and_nothing_else_is_taken() {
        let key = key();
        let claims = json!({"sub": "system:serviceaccount:default:default", "exp": 5});
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.claims(&token), Some(claims));
        let mut parts: Vec<&str> = token.split('.').collect();
        let other = encode(&json!({"sub": "system:serviceaccount:kube-system:default"}));
        parts[1] = &other;
        assert_eq!(key.claims(&parts.join(".")), None, "changed claims");
        let unsigned = format!("{}.{other}.", encode(&json!({"alg": "none"})));
        for bad in ["", ".", "..", "a.b.c", "a.b.c.d", &unsigned, &self::key().sign(&json!({})).unwrap()] {
            assert_eq!(key.claims(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_published_key_checks_a_token() {
        let key = key();
        let token = key.sign(&json!({"a": 1})).unwrap();
        let set = key.key_set();
        let published = &set["keys"][0];
        let mut point = vec![4];
        for half in ["x", "y"] {
            point.extend(URL_SAFE_NO_PAD.decode(published[half].as_str().unwrap()).unwrap());
        }
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point)
            .verify(signed.as_bytes(), &signature)
            .unwrap();
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(header["kid"], published["kid"]);
    }
}
