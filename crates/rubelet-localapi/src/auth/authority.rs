//! The server's own word on who asks: certificates and tokens in, users out; and the tokens it gives.
//!
//! What it needs of the store it is shown by the engine.

use jiff::Timestamp;
use rubelet_apimachinery::status::{self, ApiError, bad_request};
use rubelet_apimachinery::strategy::Lookup;
use rubelet_apimachinery::{User, user};
use rubelet_server::listen::Peer;
use rubelet_server::tls::ClientCa;
use serde_json::{Value, json};

use super::claims;
use super::peer::{self, Shown};
use super::tokens::{ISSUER, TokenKey, discovery};
use crate::engine::{Now, Random, Reviews, TokenWish};

/// Knows users and makes tokens.
pub struct Authority {
    key: TokenKey,
    now: Now,
    random: Random,
    url: String,
}

impl Authority {
    /// Signs with `key`; others find the server at `url`.
    pub fn new(key: TokenKey, now: Now, random: Random, url: String) -> Self {
        Self { key, now, random, url }
    }

    /// Who a request is of, by a certificate of `ca` or by a token of this server.
    ///
    /// # Errors
    /// 401 when it shows nothing, or nothing that is valid: nobody is anonymous here.
    pub fn user(
        &self,
        peer: &Peer,
        ca: &ClientCa,
        headers: &http::HeaderMap,
        lookup: &dyn Lookup,
    ) -> Result<User, ApiError> {
        let now = (self.now)();
        match peer::shows(peer, ca, headers, now) {
            Shown::Certificate(user) => Ok(user),
            Shown::Token(token) => self.bearer_of(token, lookup),
            Shown::Nothing | Shown::Invalid => Err(status::unauthorized()),
        }
    }

    /// Who the bearer of a token for this server is.
    ///
    /// # Errors
    /// 401 for a token that is none of ours, or good no longer.
    pub fn bearer_of(&self, token: &str, lookup: &dyn Lookup) -> Result<User, ApiError> {
        self.bearer(token, &[ISSUER], lookup, (self.now)()).map_err(|_| status::unauthorized())
    }

    fn bearer(
        &self,
        token: &str,
        audiences: &[&str],
        lookup: &dyn Lookup,
        now: Timestamp,
    ) -> Result<User, &'static str> {
        let claims = self.key.claims(token).ok_or("invalid bearer token")?;
        claims::bearer(lookup, &claims, audiences, now)
    }
}

impl Reviews for Authority {
    fn token_review(&self, lookup: &dyn Lookup, spec: &Value) -> Result<Value, ApiError> {
        let token = spec["token"].as_str().unwrap_or_default();
        if token.is_empty() {
            return Err(bad_request("token is required for TokenReview in authentication"));
        }
        let asked: Vec<&str> =
            spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let audiences = if asked.is_empty() { vec![ISSUER] } else { asked };
        Ok(match self.bearer(token, &audiences, lookup, (self.now)()) {
            Ok(user) => {
                let claims = self.key.claims(token).unwrap_or_default();
                let common: Vec<&Value> = claims["aud"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|a| a.as_str().is_some_and(|a| audiences.contains(&a)))
                    .collect();
                json!({"authenticated": true, "user": user::info(&user), "audiences": common})
            }
            Err(why) => json!({"user": {}, "error": why}),
        })
    }

    fn issue_token(&self, wish: &TokenWish<'_>) -> Result<Value, ApiError> {
        let id = crate::engine::uid(&self.random);
        let grant = claims::grant(wish, (self.now)(), &id)?;
        let token = self.key.sign(&grant.claims).map_err(status::internal)?;
        let expires = Timestamp::from_second(grant.expires.as_second()).unwrap_or(grant.expires);
        Ok(json!({"token": token, "expirationTimestamp": expires.to_string()}))
    }

    fn openid_configuration(&self) -> Option<Value> {
        Some(discovery(&self.url))
    }

    fn jwks(&self) -> Option<Value> {
        Some(self.key.key_set())
    }
}
