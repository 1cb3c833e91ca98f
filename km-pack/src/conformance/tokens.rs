//! Protocol 2: who the plugin is, and whether it believes only tokens that hold.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use go_plugin::Channel;
use go_plugin::host::Grace;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use km_api::key_set::KeySet;
use km_api::token::Claims;
use km_package::name::CustomerId;
use km_package::tier::Tier;
use km_proto::Direction;
use km_proto::v1::HandleMessageRequest;
use km_proto::v1::kilometers_plugin_client::KilometersPluginClient as Protocol1;
use km_proto::v2::kilometers_plugin_client::KilometersPluginClient as Protocol2;
use km_proto::v2::{AuthenticateRequest, AuthenticateResponse, DescribeRequest, DescribeResponse};

use super::ground::Ground;
use super::{Checks, Finding, Found, fine};
use crate::token::TokenSigner;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// How long the tokens of the checks are good.
const LIFETIME: i64 = 900;

/// A session with a plugin, and an API that issues tokens for it.
struct Talk<'a> {
    ground: &'a Ground,
    client: Protocol2<Channel>,
    messages: Protocol1<Channel>,
    issuer: TokenSigner,
    stranger: TokenSigner,
}

const DESCRIBE: &str = "Describe says what GetName, GetVersion, GetRequiredTier and the manifest say";
const TOKEN: &str = "a token for it is believed, and bounded by the tier stamped into it";
const REFUSED: &str = "tokens that do not hold for it are refused, and close it";
const RENEWED: &str = "at every Authenticate the newest token counts";

pub(super) async fn check(ground: &Ground, checks: &mut Checks<'_>) {
    let all =
        [("describe", DESCRIBE), ("token", TOKEN), ("tokens-refused", REFUSED), ("token-renewed", RENEWED)];
    let skip = |checks: &mut Checks<'_>, why: &str| {
        all.iter().for_each(|(id, what)| checks.skip(id, what, why));
    };
    let session = match ground.start(&ground.host()).await {
        Ok(session) => session,
        Err(error) => return skip(checks, &error.to_string()),
    };
    match (session.plugin.version(), Talk::new(ground, session.plugin.channel())) {
        (1, _) => skip(checks, "it speaks protocol 1"),
        (_, Err(why)) => skip(checks, &why),
        (_, Ok(mut talk)) => {
            checks.make("describe", DESCRIBE, talk.describe()).await;
            checks.make("token", TOKEN, talk.token()).await;
            checks.make("tokens-refused", REFUSED, talk.refused()).await;
            checks.make("token-renewed", RENEWED, talk.renewed()).await;
        }
    }
    session.plugin.stop(Grace::default()).await;
}

/// Authenticates a plugin by a token, for the checks that need no API key for it.
pub(super) async fn authorize(ground: &Ground, channel: Channel) -> Found {
    let mut talk = Talk::new(ground, channel)?;
    let described = talk.ask_who().await?;
    let token = talk.sign(&claims(&described, Tier::Enterprise)?)?;
    let answer = talk.show(token).await?;
    if answer.authorized { fine(format!("{}, by a token", answer.tier)) } else { Err(answer.error) }
}

/// A token as it should be, for a plugin and its customer.
fn claims(described: &DescribeResponse, tier: Tier) -> Result<Claims, String> {
    let customer = described.identity.as_ref().map_or("customer_123", |identity| &identity.customer);
    let customer: CustomerId = customer.parse().map_err(|e| format!("its customer: {e}"))?;
    let now = unix_now();
    Ok(Claims {
        iss: ISSUER.to_owned(),
        sub: customer.clone(),
        customer_id: customer,
        aud: described.name.parse().map_err(|e| format!("its name: {e}"))?,
        tier,
        features: km_api::feature::of(tier).iter().map(|feature| (*feature).to_owned()).collect(),
        iat: now,
        nbf: now,
        exp: now + LIFETIME,
        jti: "check".to_owned(),
    })
}

const ISSUER: &str = "km-pack test";

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The tier that a binary has by its stamp.
fn stamped(described: &DescribeResponse) -> Tier {
    described.identity.as_ref().and_then(|identity| identity.tier.parse().ok()).unwrap_or(Tier::Free)
}

fn required(described: &DescribeResponse) -> Result<Tier, String> {
    described.required_tier.parse().map_err(|e| format!("its required tier: {e}"))
}

impl<'a> Talk<'a> {
    fn new(ground: &'a Ground, channel: Channel) -> Result<Self, String> {
        let signer = || TokenSigner::generate().map_err(|failure| failure.message);
        let (client, messages) = (Protocol2::new(channel.clone()), Protocol1::new(channel));
        Ok(Self { ground, client, messages, issuer: signer()?, stranger: signer()? })
    }

    async fn ask_who(&mut self) -> Result<DescribeResponse, String> {
        let call = self.client.describe(DescribeRequest {});
        let answer = tokio::time::timeout(CALL, call).await.map_err(|_| "Describe: no answer".to_owned())?;
        Ok(answer.map_err(|e| format!("Describe: {}", e.message()))?.into_inner())
    }

    async fn show(&mut self, token: String) -> Result<AuthenticateResponse, String> {
        let keys = KeySet { issuer: ISSUER.to_owned(), keys: vec![self.issuer.public().clone()] };
        let request = AuthenticateRequest {
            token,
            key_set: serde_json::to_string(&keys).map_err(|e| e.to_string())?,
            // Nobody is there; nothing is sent before a message.
            api_endpoint: "http://127.0.0.1:1".to_owned(),
            ..AuthenticateRequest::default()
        };
        let call = self.client.authenticate(request);
        let answer =
            tokio::time::timeout(CALL, call).await.map_err(|_| "Authenticate: no answer".to_owned())?;
        Ok(answer.map_err(|e| format!("Authenticate: {}", e.message()))?.into_inner())
    }

    fn sign(&self, claims: &Claims) -> Result<String, String> {
        Ok(self.issuer.sign(claims).map_err(|e| e.message)?.reveal().to_owned())
    }

    async fn describe(&mut self) -> Found {
        let described = self.ask_who().await?;
        let empty = km_proto::v1::Empty {};
        let one = |e: tonic::Status| e.message().to_owned();
        let name = self.messages.get_name(empty).await.map_err(one)?.into_inner().value;
        let version = self.messages.get_version(empty).await.map_err(one)?.into_inner().value;
        let tier = self.messages.get_required_tier(empty).await.map_err(one)?.into_inner().value;
        let one = (&name, &version, &tier);
        let two = (&described.name, &described.version, &described.required_tier);
        if one != two {
            return Err(format!("protocol 1 says {one:?}, protocol 2 {two:?}"));
        }
        let said =
            described.identity.as_ref().map(|identity| (identity.customer.as_str(), identity.tier.as_str()));
        let packed = self.ground.subject.manifest.as_ref().map(|manifest| &manifest.customer);
        match (packed.map(|customer| (customer.id.as_str(), customer.tier.as_str())), said) {
            (Some(packed), said) if said != Some(packed) => {
                Err(format!("it says that it is for {said:?}, its manifest says {packed:?}"))
            }
            (_, said) => {
                fine(said.map_or("not stamped".to_owned(), |(customer, tier)| format!("{customer}, {tier}")))
            }
        }
    }

    async fn token(&mut self) -> Found {
        let described = self.ask_who().await?;
        if stamped(&described) < required(&described)? {
            return Ok(Finding::Inapplicable("it is not stamped for the tier that it needs".to_owned()));
        }
        let claims = claims(&described, Tier::Enterprise)?;
        let token = self.sign(&claims)?;
        let answer = self.show(token).await?;
        let expires = answer.expires_at.map(|end| end.seconds);
        if !answer.authorized {
            return Err(format!("it refuses a good token: {}", answer.error));
        }
        if (answer.tier.as_str(), expires) != (stamped(&described).as_str(), Some(claims.exp)) {
            return Err(format!(
                "stamped {} and shown Enterprise until {}, it says {} until {expires:?}",
                stamped(&described),
                claims.exp,
                answer.tier
            ));
        }
        fine(answer.tier)
    }

    async fn refused(&mut self) -> Found {
        let described = self.ask_who().await?;
        let good = claims(&described, Tier::Enterprise)?;
        for (what, token) in self.wrong_tokens(&described, &good)? {
            let answer = self.show(token).await?;
            if answer.authorized {
                return Err(format!("it believes {what}"));
            }
            if self.takes_messages().await {
                return Err(format!("refused by {what}, it takes messages all the same"));
            }
        }
        let answer = self.show(String::new()).await?;
        match (answer.authorized, required(&described)?) {
            (true, Tier::Free) | (false, Tier::Pro | Tier::Enterprise) => fine(""),
            (true, tier) => Err(format!("it needs {tier}, and runs without a token")),
            (false, Tier::Free) => Err(format!("it needs no token, and refuses without: {}", answer.error)),
        }
    }

    fn wrong_tokens(
        &self,
        described: &DescribeResponse,
        good: &Claims,
    ) -> Result<Vec<(&'static str, String)>, String> {
        let other = |text: &str| text.parse::<CustomerId>().map_err(|e| e.to_string());
        let token = self.sign(good)?;
        let mut wrong = vec![
            ("a token for another plugin", {
                let aud = "another-plugin".parse().map_err(|e| format!("{e}"))?;
                self.sign(&Claims { aud, ..good.clone() })?
            }),
            ("a token of another issuer", self.sign(&Claims { iss: "another".to_owned(), ..good.clone() })?),
            ("an expired token", self.sign(&Claims { exp: good.iat - 61, ..good.clone() })?),
            ("a token of tomorrow", {
                let tomorrow = good.iat + 86_400;
                self.sign(&Claims { iat: tomorrow, nbf: tomorrow, exp: tomorrow + LIFETIME, ..good.clone() })?
            }),
            ("a token signed with another key", {
                self.stranger.sign(good).map_err(|e| e.message)?.reveal().to_owned()
            }),
            ("a token with a changed signature", changed(&token)),
            ("a token without a signature (alg none)", self.unsigned(good)?),
            ("a token signed with the public key (HS256)", self.by_public_key(good)?),
            ("what is no token", "not.a.token".to_owned()),
        ];
        if described.identity.is_some() {
            let another = other("another_customer")?;
            wrong.push(("a token for another customer", {
                self.sign(&Claims { customer_id: another.clone(), sub: another, ..good.clone() })?
            }));
        }
        Ok(wrong)
    }

    fn unsigned(&self, claims: &Claims) -> Result<String, String> {
        let header = format!(r#"{{"alg":"none","typ":"JWT","kid":"{}"}}"#, self.issuer.public().id());
        let claims = serde_json::to_vec(claims).map_err(|e| e.to_string())?;
        Ok(format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims)))
    }

    fn by_public_key(&self, claims: &Claims) -> Result<String, String> {
        let public = serde_json::to_value(self.issuer.public()).map_err(|e| e.to_string())?;
        let secret = URL_SAFE_NO_PAD.decode(public["x"].as_str().unwrap_or_default()).unwrap_or_default();
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.issuer.public().id().to_owned());
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(&secret)).map_err(|e| e.to_string())
    }

    async fn renewed(&mut self) -> Found {
        let described = self.ask_who().await?;
        let required = required(&described)?;
        if stamped(&described) < required {
            return Ok(Finding::Inapplicable("it is not stamped for the tier that it needs".to_owned()));
        }
        let high = self.sign(&claims(&described, Tier::Enterprise)?)?;
        let low = self.sign(&claims(&described, Tier::Free)?)?;
        if !self.show(high.clone()).await?.authorized {
            return Err("it refuses a good token".to_owned());
        }
        let answer = self.show(low).await?;
        match (required, answer.authorized) {
            (Tier::Free, true) if answer.tier == Tier::Free.as_str() => {}
            (Tier::Free, _) => return Err(format!("shown Free it says {:?}: {}", answer.tier, answer.error)),
            (_, false) if !self.takes_messages().await => {}
            (tier, _) => return Err(format!("it needs {tier}, and goes on when shown Free")),
        }
        let again = self.show(high).await?;
        if again.authorized { fine("") } else { Err(format!("upgraded again it refuses: {}", again.error)) }
    }

    async fn takes_messages(&mut self) -> bool {
        let request = HandleMessageRequest {
            data: br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#.to_vec().into(),
            direction: Direction::Inbound.as_str().to_owned(),
            correlation_id: "1".to_owned(),
        };
        let handled = tokio::time::timeout(CALL, self.messages.handle_message(request)).await;
        handled.is_ok_and(|handled| handled.is_ok_and(|answer| answer.get_ref().success))
    }
}

/// The same token with another first character of its signature.
fn changed(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{signed}.{first}{}", signature.get(1..).unwrap_or_default())
}
