//! The customers of a batch: a TOML or CSV file.

use std::collections::HashSet;
use std::path::Path;

use km_package::failure::{Failure, Kind};
use km_package::identity::api_key_digest;
use km_package::manifest::Customer;
use km_package::name::CustomerId;
use km_package::tier::Tier;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Most bytes of a list: some hundred thousand customers.
const MAX_LIST: u64 = 64 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    customers: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: CustomerId,
    #[serde(deserialize_with = "tier")]
    tier: Tier,
    #[serde(default)]
    api_key: Option<Zeroizing<String>>,
}

/// In any case, as on the command line.
fn tier<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Tier, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// Reads `[[customers]]` with `id`, `tier` and perhaps `api_key`; or, from a file that ends in `.csv`,
/// the same columns under a line that names them.
///
/// # Errors
/// When it cannot be read, names somebody twice, or nobody. What stands in it is not repeated: it may
/// be an API key.
pub fn read_customers(path: &Path) -> Result<Vec<Customer>, Failure> {
    let text = read(path)?;
    let is_csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let rows = if is_csv { from_csv(&text) } else { from_toml(&text) };
    let refuse = |what: String| {
        Failure::new(Kind::Usage, format_args!("{}: {what}", path.display())).help(
            "it has `[[customers]]` with `id`, `tier` and perhaps `api_key`, or the same as CSV columns",
        )
    };
    let customers: Vec<Customer> = rows.map_err(refuse)?.into_iter().map(Customer::from).collect();
    if customers.is_empty() {
        return Err(refuse("it names no customer".to_owned()));
    }
    let mut seen = HashSet::new();
    match customers.iter().find(|customer| !seen.insert(&customer.id)) {
        Some(twice) => Err(refuse(format!("{} is named twice", twice.id))),
        None => Ok(customers),
    }
}

impl From<Row> for Customer {
    fn from(Row { id, tier, api_key }: Row) -> Self {
        let api_key = api_key.filter(|key| !key.is_empty());
        Self { id, tier, api_key_sha256: api_key.map(|key| api_key_digest(&key)) }
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    use std::io::Read as _;
    let failed = |e| Failure::file("read", path, &e);
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_LIST + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_LIST {
        return Err(Failure::new(
            Kind::Usage,
            format_args!("{} is longer than {MAX_LIST} bytes", path.display()),
        ));
    }
    Ok(text)
}

fn from_toml(text: &str) -> Result<Vec<Row>, String> {
    let document: Document = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        format!("line {line}: {}", without_quotes(e.message()))
    })?;
    Ok(document.customers)
}

fn from_csv(text: &str) -> Result<Vec<Row>, String> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let place = |e: csv::Error| {
        let line = e.position().map_or(1, csv::Position::line);
        match e.kind() {
            csv::ErrorKind::Deserialize { err, .. } => {
                format!("line {line}: {}", without_quotes(&err.kind().to_string()))
            }
            _ => format!("line {line}: this is not CSV with the columns id, tier, api_key"),
        }
    };
    reader.deserialize().collect::<Result<_, _>>().map_err(place)
}

/// A message without what it quotes, which may be a key.
fn without_quotes(message: &str) -> String {
    let pieces = message.split(['`', '"']).enumerate();
    pieces.map(|(at, piece)| if at % 2 == 0 { piece } else { "…" }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(name: &str, text: &str) -> Result<Vec<Customer>, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_customers(&path)
    }

    #[test]
    fn toml_and_csv_say_the_same() {
        let toml = "[[customers]]\nid = \"a\"\ntier = \"pro\"\n[[customers]]\nid = \"b\"\ntier = \"Free\"\napi_key = \"km_live_x\"\n";
        let csv = "id,tier,api_key\na, Pro,\n\"b\",free,km_live_x\n";
        let (toml, csv) = (list("c.toml", toml).unwrap(), list("c.csv", csv).unwrap());
        assert_eq!(toml, csv);
        assert_eq!((toml[0].tier, toml[0].api_key_sha256), (Tier::Pro, None));
        assert_eq!(toml[1].api_key_sha256, Some(api_key_digest("km_live_x")));
        assert_eq!(list("c.csv", "id,tier\na,Pro\n").unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_without_what_stands_there() {
        for (name, text) in [
            ("c.toml", "[[customers]]\nid = \"a\"\ntier = \"km_live_x\"\n"),
            ("c.toml", "[[customers]]\nid = \"a\"\ntier = \"Pro\"\nkey = \"km_live_x\"\n"),
            ("c.toml", "[[customers]]\nid = \"km_live_x/..\"\ntier = \"Pro\"\n"),
            ("c.toml", ""),
            ("c.csv", "id,tier\n"),
            ("c.csv", "id,tier\na,km_live_x\n"),
            ("c.csv", "id,tier\na,Pro,km_live_x\n"),
            ("c.csv", "id,tier,colour\na,Pro,km_live_x\n"),
            ("c.csv", "id,tier\na,Pro\na,Free\n"),
        ] {
            let failure = list(name, text).unwrap_err();
            assert_eq!(failure.kind, Kind::Usage, "{text}");
            assert!(!failure.message.contains("km_live_x"), "{failure}");
        }
    }
}
