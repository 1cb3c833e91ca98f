//! `km-pack customers`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use km_api::api_key::ApiKey;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::name::CustomerId;
use km_package::tier::Tier;
use serde::Serialize;

use super::DatabaseArgs;
use crate::customers::{Customer, Database, KeyRecord, State, new_api_key};
use crate::environment::Environment;

/// Say who may use the plugin API
///
/// A running server goes by every change from its next request on.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
#[command(after_help = "Example:\n  km-pack customers add customer_123 --tier Pro\n  km-pack customers list")]
pub(super) struct Customers {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a customer and print their API key, this once
    #[command(after_help = "Example:\n  km-pack customers add customer_123 --tier Pro --expires 2027-12-31")]
    Add(Add),
    /// Print another API key for a customer, this once
    #[command(after_help = "Example:\n  km-pack customers new-key customer_123")]
    NewKey(Named),
    /// List customers, with their API keys masked
    #[command(after_help = "Example:\n  km-pack customers list --json")]
    List {
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Give a customer another tier
    #[command(after_help = "Example:\n  km-pack customers set-tier customer_123 Enterprise")]
    SetTier {
        #[command(flatten)]
        customer: Named,
        /// Free, Pro or Enterprise
        tier: Tier,
    },
    /// Set what a customer has besides what the tier includes; nothing takes it away
    #[command(after_help = "Example:\n  km-pack customers set-features customer_123 beta api_logging")]
    SetFeatures {
        #[command(flatten)]
        customer: Named,
        /// The features, all of them
        #[arg(value_name = "FEATURE", value_parser = feature)]
        features: Vec<String>,
    },
    /// Set the end of a subscription
    #[command(after_help = "Example:\n  km-pack customers set-expiry customer_123 2028-12-31")]
    SetExpiry {
        #[command(flatten)]
        customer: Named,
        /// A time (RFC 3339), a date (00:00 UTC of that day), or `never`
        #[arg(value_name = "TIME", value_parser = expiry)]
        expires: Expiry,
    },
    /// Suspend a customer: every key is refused until `resume`
    #[command(after_help = "Example:\n  km-pack customers suspend customer_123")]
    Suspend(Named),
    /// Resume a suspended customer
    #[command(after_help = "Example:\n  km-pack customers resume customer_123")]
    Resume(Named),
    /// Revoke API keys of a customer: the one that is named, else all
    #[command(after_help = "Example:\n  km-pack customers revoke-key customer_123 km_l…c123")]
    RevokeKey {
        #[command(flatten)]
        customer: Named,
        /// The key as `list` shows it, or the beginning of its digest
        #[arg(value_name = "KEY")]
        key: Option<String>,
    },
    /// Remove a customer with their API keys and events
    #[command(after_help = "Example:\n  km-pack customers remove customer_123 --if-present")]
    Remove {
        #[command(flatten)]
        customer: Named,
        /// Nobody to remove is no failure
        #[arg(long)]
        if_present: bool,
    },
}

#[derive(Debug, Args)]
struct Add {
    #[command(flatten)]
    customer: Named,
    /// Free, Pro or Enterprise
    #[arg(long)]
    tier: Tier,
    /// A feature besides what the tier includes; may be repeated
    #[arg(long = "feature", value_name = "FEATURE", value_parser = feature)]
    features: Vec<String>,
    /// When the subscription ends: a time (RFC 3339), or a date (00:00 UTC of that day)
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires: Option<Expiry>,
}

#[derive(Debug, Args)]
struct Named {
    /// The customer's id
    #[arg(value_name = "CUSTOMER")]
    id: CustomerId,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// The end of a subscription; none is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expiry(Option<Timestamp>);

/// A key that is shown this once.
#[derive(Debug, Serialize)]
struct KeyDocument<'a> {
    customer: &'a CustomerId,
    tier: Tier,
    api_key: &'a str,
}

/// A customer, as a change left them.
#[derive(Debug, Serialize)]
struct CustomerDocument<'a> {
    customer: &'a CustomerId,
    tier: Tier,
    state: State,
    features: &'a [String],
    expires_at: Option<Timestamp>,
    created_at: Timestamp,
    keys: Vec<KeyLine<'a>>,
}

#[derive(Debug, Serialize)]
struct KeyLine<'a> {
    hint: &'a str,
    digest: &'a str,
    created_at: Timestamp,
    revoked_at: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct List<'a> {
    customers: Vec<CustomerDocument<'a>>,
}

#[derive(Debug, Serialize)]
struct Removed<'a> {
    customer: &'a CustomerId,
    removed: bool,
}

impl Customers {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::new(Kind::Local, e))?;
        runtime.block_on(async {
            let database = self.action.database().open(environment).await?;
            let done = Session { database: &database, output }.run(&self.action).await;
            database.close().await;
            done
        })
    }
}

impl Action {
    fn database(&self) -> &DatabaseArgs {
        match self {
            Self::List { database } => database,
            Self::Add(Add { customer, .. })
            | Self::NewKey(customer)
            | Self::SetTier { customer, .. }
            | Self::SetFeatures { customer, .. }
            | Self::SetExpiry { customer, .. }
            | Self::Suspend(customer)
            | Self::Resume(customer)
            | Self::RevokeKey { customer, .. }
            | Self::Remove { customer, .. } => &customer.database,
        }
    }
}

struct Session<'a> {
    database: &'a Database,
    output: &'a Output,
}

impl Session<'_> {
    async fn run(&self, action: &Action) -> Result<(), Failure> {
        match action {
            Action::Add(add) => self.add(add).await,
            Action::NewKey(customer) => self.new_key(&customer.id).await,
            Action::List { .. } => self.list().await,
            Action::SetTier { customer, tier } => self.set_tier(&customer.id, *tier).await,
            Action::SetFeatures { customer, features } => self.set_features(&customer.id, features).await,
            Action::SetExpiry { customer, expires } => self.set_expiry(&customer.id, *expires).await,
            Action::Suspend(customer) => self.set_state(&customer.id, State::Suspended).await,
            Action::Resume(customer) => self.set_state(&customer.id, State::Active).await,
            Action::RevokeKey { customer, key } => self.revoke(&customer.id, key.as_deref()).await,
            Action::Remove { customer, if_present } => self.remove(&customer.id, *if_present).await,
        }
    }

    async fn add(&self, add: &Add) -> Result<(), Failure> {
        let mut customer = Customer::new(add.customer.id.clone(), add.tier);
        customer.features = each_once(&add.features);
        customer.expires_at = add.expires.and_then(|expires| expires.0);
        let key = new_api_key()?;
        if !self.database.add(&customer, &key).await? {
            let message = format!("the customer {} exists", customer.id);
            return Err(Failure::new(Kind::Conflict, message).help(format_args!(
                "`km-pack customers new-key {0}` makes another API key, `set-tier {0}` changes the tier",
                customer.id
            )));
        }
        self.warn_if_over(&customer);
        self.show_key(&customer, &key);
        Ok(())
    }

    async fn new_key(&self, id: &CustomerId) -> Result<(), Failure> {
        let customer = self.customer(id).await?;
        let key = new_api_key()?;
        self.database.add_key(id, &key).await?;
        self.show_key(&customer, &key);
        Ok(())
    }

    fn show_key(&self, customer: &Customer, key: &ApiKey) {
        let document = KeyDocument { customer: &customer.id, tier: customer.tier, api_key: key.reveal() };
        self.output.result(&document, key.reveal());
        if !self.output.is_json() {
            self.output.note(format_args!(
                "this is the API key of {} ({}); it is shown this once",
                customer.id, customer.tier
            ));
        }
    }

    async fn list(&self) -> Result<(), Failure> {
        let all = self.database.list().await?;
        let customers = all.iter().map(|(customer, keys)| document(customer, keys)).collect();
        let rows: Vec<Vec<String>> = all.iter().map(|(customer, keys)| row(customer, keys)).collect();
        let header = ["CUSTOMER", "TIER", "STATE", "FEATURES", "EXPIRES", "KEYS"];
        self.output.result(&List { customers }, km_cli::table(&header, &rows));
        Ok(())
    }

    async fn set_tier(&self, id: &CustomerId, tier: Tier) -> Result<(), Failure> {
        let before = self.customer(id).await?.tier;
        if before == tier {
            return self.report(id, format_args!("{id} has the tier {tier} already")).await;
        }
        self.database.set_tier(id, tier).await?;
        self.report(id, format_args!("{id} has the tier {tier} now, and had {before}")).await?;
        if tier > before {
            self.output.note("what was published for them is stamped as before until `km-pack restamp`");
        }
        Ok(())
    }

    async fn set_features(&self, id: &CustomerId, features: &[String]) -> Result<(), Failure> {
        let features = each_once(features);
        if self.customer(id).await?.features == features {
            return self.report(id, format_args!("{id} has these features already")).await;
        }
        self.database.set_features(id, &features).await?;
        let has = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
        self.report(id, format_args!("{id} has these features besides those of the tier now: {has}")).await
    }

    async fn set_expiry(&self, id: &CustomerId, Expiry(end): Expiry) -> Result<(), Failure> {
        let mut customer = self.customer(id).await?;
        let when = end.map_or("never".to_owned(), |end| end.to_string());
        if customer.expires_at == end {
            return self.report(id, format_args!("the subscription of {id} ends {when} already")).await;
        }
        self.database.set_expiry(id, end).await?;
        customer.expires_at = end;
        self.warn_if_over(&customer);
        self.report(id, format_args!("the subscription of {id} ends {when} now")).await
    }

    async fn set_state(&self, id: &CustomerId, state: State) -> Result<(), Failure> {
        if self.customer(id).await?.state == state {
            return self.report(id, format_args!("{id} is {} already", state.as_str())).await;
        }
        self.database.set_state(id, state).await?;
        self.report(id, format_args!("{id} is {} now", state.as_str())).await
    }

    async fn revoke(&self, id: &CustomerId, name: Option<&str>) -> Result<(), Failure> {
        self.customer(id).await?;
        let keys = self.database.keys(id).await?;
        let meant: Vec<&KeyRecord> = match name {
            None => keys.iter().collect(),
            Some(name) => vec![one_key(id, &keys, name)?],
        };
        let mut revoked = 0;
        for key in meant.iter().filter(|key| key.revoked_at.is_none()) {
            self.database.revoke(&key.digest).await?;
            revoked += 1;
        }
        let already = if revoked == 0 { ": revoked already, or none there" } else { "" };
        self.report(id, format_args!("{revoked} of the API keys of {id} revoked{already}")).await
    }

    async fn remove(&self, id: &CustomerId, if_present: bool) -> Result<(), Failure> {
        let removed = self.database.remove(id).await?;
        if !removed && !if_present {
            return Err(unknown(id));
        }
        let text = if removed { "removed, with all API keys and events" } else { "not there" };
        self.output.result(&Removed { customer: id, removed }, format_args!("{id}: {text}"));
        Ok(())
    }

    async fn customer(&self, id: &CustomerId) -> Result<Customer, Failure> {
        self.database.customer(id).await?.ok_or_else(|| unknown(id))
    }

    /// The customer as they are now.
    async fn report(&self, id: &CustomerId, text: impl std::fmt::Display) -> Result<(), Failure> {
        let (customer, keys) = (self.customer(id).await?, self.database.keys(id).await?);
        self.output.result(&document(&customer, &keys), text);
        Ok(())
    }

    fn warn_if_over(&self, customer: &Customer) {
        if customer.expires_at.is_some_and(|end| end <= Timestamp::now()) {
            self.output.warn(format_args!("the subscription of {} is over", customer.id));
        }
    }
}

fn unknown(id: &CustomerId) -> Failure {
    Failure::new(Kind::NotFound, format_args!("there is no customer {id}")).help("km-pack customers list")
}

/// The name may be a whole key, and is not repeated.
fn one_key<'a>(id: &CustomerId, keys: &'a [KeyRecord], name: &str) -> Result<&'a KeyRecord, Failure> {
    let meant: Vec<&KeyRecord> = keys.iter().filter(|key| key.is_named(name)).collect();
    match meant[..] {
        [key] => Ok(key),
        [] => Err(Failure::new(Kind::NotFound, format_args!("{id} has no such API key"))
            .help("km-pack customers list --json")),
        _ => {
            let digests: Vec<&str> = meant.iter().filter_map(|key| key.digest.get(..12)).collect();
            Err(Failure::new(Kind::Conflict, format_args!("{id} has several API keys like this"))
                .help(format_args!("name one by its digest: {}", digests.join(", "))))
        }
    }
}

fn document<'a>(customer: &'a Customer, keys: &'a [KeyRecord]) -> CustomerDocument<'a> {
    let line = |key: &'a KeyRecord| KeyLine {
        hint: &key.hint,
        digest: &key.digest,
        created_at: key.created_at,
        revoked_at: key.revoked_at,
    };
    CustomerDocument {
        customer: &customer.id,
        tier: customer.tier,
        state: customer.state,
        features: &customer.features,
        expires_at: customer.expires_at,
        created_at: customer.created_at,
        keys: keys.iter().map(line).collect(),
    }
}

fn row(customer: &Customer, keys: &[KeyRecord]) -> Vec<String> {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let key = |key: &KeyRecord| match key.revoked_at {
        Some(_) => format!("{} (revoked)", key.hint),
        None => key.hint.clone(),
    };
    vec![
        customer.id.to_string(),
        customer.tier.to_string(),
        customer.state.as_str().to_owned(),
        or_dash(customer.features.join(", ")),
        customer.expires_at.map_or("never".to_owned(), |end| end.to_string()),
        or_dash(keys.iter().map(key).collect::<Vec<_>>().join(", ")),
    ]
}

fn each_once(features: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for feature in features {
        if !kept.contains(feature) {
            kept.push(feature.clone());
        }
    }
    kept
}

/// They travel in every token, so they are short words.
fn feature(text: &str) -> Result<String, String> {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
    if (1..=48).contains(&text.len()) && text.bytes().all(word) {
        Ok(text.to_owned())
    } else {
        Err("a feature matches [a-z0-9._-]{1,48}".to_owned())
    }
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" {
        return Ok(Expiry(None));
    }
    let of_date = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
    // A date with a time but without a zone is neither.
    let date = if text.len() == "2027-12-31".len() { of_date() } else { None };
    // Whole seconds, as they are kept.
    let seconds = |end: Timestamp| Timestamp::from_second(end.as_second()).ok();
    let end = date.or_else(|| text.parse().ok()).and_then(seconds);
    end.map(|end| Expiry(Some(end))).ok_or_else(|| {
        "not a time such as 2027-12-31T12:00:00Z, a date such as 2027-12-31, or `never`".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_a_time_a_date_or_never() {
        let end = |text: &str| expiry(text).unwrap().0.map(|end| end.to_string());
        assert_eq!(end("2027-12-31").as_deref(), Some("2027-12-31T00:00:00Z"));
        assert_eq!(end("2027-12-31T12:00:00+02:00").as_deref(), Some("2027-12-31T10:00:00Z"));
        assert_eq!(end("2027-12-31T12:00:00.5Z").as_deref(), Some("2027-12-31T12:00:00Z"));
        assert_eq!(end("never"), None);
        for bad in ["", "tomorrow", "2027-13-01", "2027-12-31T12:00:00", "20271231"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn features_are_short_words_and_kept_once() {
        assert!(feature("api_logging").is_ok());
        for bad in ["", "Api", "a b", "a,b", &"a".repeat(49)] {
            assert!(feature(bad).is_err(), "{bad}");
        }
        assert_eq!(each_once(&["b".to_owned(), "a".to_owned(), "b".to_owned()]), ["b", "a"]);
    }

    #[test]
    fn a_key_that_is_not_the_only_one_is_asked_for() {
        let id: CustomerId = "c1".parse().unwrap();
        let record = |digit: &str| KeyRecord {
            digest: digit.repeat(64),
            hint: "km_l…c123".to_owned(),
            created_at: Timestamp::UNIX_EPOCH,
            revoked_at: None,
        };
        let keys = [record("a"), record("b")];
        assert_eq!(one_key(&id, &keys, "aaaaaaaa").unwrap(), &keys[0]);
        let several = one_key(&id, &keys, "km_l…c123").unwrap_err();
        assert_eq!(several.kind, Kind::Conflict);
        assert!(several.to_string().contains("bbbbbbbbbbbb"), "{several}");
        assert_eq!(one_key(&id, &keys, "km_live_secret").unwrap_err().kind, Kind::NotFound);
    }
}
