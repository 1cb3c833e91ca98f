//! Whom a package is for and what it needs: V6 to V11 (E14, T4, T8, T11), and that the rules are
//! judged in their order.

use std::cell::Cell;

use km_package::digest::Digest;
use km_package::manifest::Manifest;
use km_package::name::{CustomerId, PluginName};
use km_package::tier::Tier;
use km_package::verify::{Context, Discard, Purpose, Rule, UntrustedPackage, verify};

use crate::forge::{
    CUSTOMER, Forge, NOW, PLUGIN, SEQUENCE, Sealed, base_digest, compiled, context, good_identity,
    release_key, sign, slot_of, stamped, stranger_key, time, trusted_keys,
};
use crate::verdict::{Case, Verdict, accepted, judge, refused};

pub(crate) fn cases() -> Vec<Case> {
    [recipients(), installation()].concat()
}

fn saying(rule: Rule, name: &str, change: fn(&mut Manifest)) -> Case {
    refused(rule, name, Forge::good().saying(change).bytes())
}

fn recipients() -> Vec<Case> {
    vec![
        saying(Rule::Customer, "of_another_customer", |m| m.customer.id = "acme".parse().unwrap()),
        saying(Rule::Customer, "of_a_customer_in_capitals", |m| {
            m.customer.id = "CUSTOMER_123".parse().unwrap()
        }),
        saying(Rule::Customer, "of_a_customer_with_a_longer_name", |m| {
            m.customer.id = "customer_1234".parse().unwrap();
        }),
        refused(Rule::Customer, "complete_for_another_customer", for_another_customer().bytes()),
        saying(Rule::Platform, "for_another_system", |m| m.target.platform = "darwin-amd64".parse().unwrap()),
        saying(Rule::Platform, "for_another_processor", |m| {
            m.target.platform = "linux-arm64".parse().unwrap()
        }),
        saying(Rule::Platform, "for_no_platform_that_there_is", |m| {
            m.target.platform = "any-any".parse().unwrap()
        }),
        saying(Rule::Protocol, "speaks_a_newer_protocol", |m| m.protocol.versions = vec![3]),
        saying(Rule::Protocol, "speaks_protocol_0", |m| m.protocol.versions = vec![0]),
        saying(Rule::Protocol, "speaks_none_of_many", |m| m.protocol.versions = (3..2000).collect()),
        saying(Rule::Tier, "needs_more_than_is_stamped", |m| m.plugin.required_tier = Tier::Enterprise),
        saying(Rule::Tier, "stamped_less_than_it_needs", |m| m.customer.tier = Tier::Free),
    ]
}

/// All of it right, only not for us.
fn for_another_customer() -> Forge {
    let mut identity = good_identity();
    identity.customer = "acme".parse().unwrap();
    Forge::of_binary(&stamped(&slot_of(&release_key(), &identity.to_text())))
        .saying(|m| m.customer.id = "acme".parse().unwrap())
}

fn installation() -> Vec<Case> {
    let fine = |name: &str, change: fn(&mut Manifest)| accepted(name, Forge::good().saying(change).bytes());
    vec![
        saying(Rule::Rollback, "one_below_the_highest", |m| m.plugin.sequence = SEQUENCE - 1),
        saying(Rule::Rollback, "sequence_zero", |m| m.plugin.sequence = 0),
        fine("one_above_the_highest", |m| m.plugin.sequence = SEQUENCE + 1),
        fine("sequence_as_high_as_can_be", |m| m.plugin.sequence = i64::MAX as u64),
        saying(Rule::Expiry, "expires_now", |m| m.plugin.expires = Some(time(NOW))),
        saying(Rule::Expiry, "expired_long_ago", |m| m.plugin.expires = Some(time(0))),
        saying(Rule::Expiry, "expired_before_it_was_made", |m| {
            m.plugin.expires = Some(time(m.build.created.unix() - 1));
        }),
        fine("never_expires", |m| m.plugin.expires = None),
    ]
}

fn judge_in(context: &Context<'_>, forge: &Forge) -> Verdict {
    judge_sealed(context, &forge.seal())
}

fn judge_sealed(context: &Context<'_>, sealed: &Sealed) -> Verdict {
    let bytes = sealed.bytes();
    let package = UntrustedPackage::open(&bytes[..], Discard).unwrap();
    Verdict::from(verify(package, &trusted_keys(), context).map(drop))
}

#[test]
fn without_a_configured_customer_the_rule_is_skipped_and_no_other() {
    let anyone = Context { customer: None, ..context() };
    assert_eq!(judge_in(&anyone, &for_another_customer()), Verdict::Accepted);
    // The identity in the binary still says somebody else.
    let forge = Forge::good().saying(|m| m.customer.id = "acme".parse().unwrap());
    assert_eq!(judge_in(&anyone, &forge), Verdict::Refused(Rule::Identity));
}

#[test]
fn to_run_what_is_installed_neither_rollback_nor_expiry_stops_it() {
    let run = Context { purpose: Purpose::Run, ..context() };
    let old = Forge::good().saying(|m| (m.plugin.sequence, m.plugin.expires) = (0, Some(time(0))));
    assert_eq!(judge_in(&run, &old), Verdict::Accepted);
    let other = old.saying(|m| m.customer.id = "acme".parse().unwrap());
    assert_eq!(judge_in(&run, &other), Verdict::Refused(Rule::Customer));
}

#[test]
fn a_first_installation_has_no_highest_sequence() {
    let purpose = Purpose::Install { now: time(NOW), highest_sequence: &|_, _| None };
    let oldest = Forge::good().saying(|m| m.plugin.sequence = 0);
    assert_eq!(judge_in(&Context { purpose, ..context() }, &oldest), Verdict::Accepted);
}

/// Whoever is asked what was installed before opens a store by these names.
#[test]
fn the_store_is_asked_about_this_plugin_and_customer_and_not_before_a_key_vouches_for_the_names() {
    let asked = Cell::new(false);
    let ask = |plugin: &PluginName, customer: &CustomerId| {
        assert_eq!((plugin.as_str(), customer.as_str()), (PLUGIN, CUSTOMER));
        asked.set(true);
        Some(SEQUENCE + 1)
    };
    let context =
        Context { purpose: Purpose::Install { now: time(NOW), highest_sequence: &ask }, ..context() };
    assert_eq!(judge_in(&context, &Forge::good()), Verdict::Refused(Rule::Rollback));
    assert!(asked.take());
    let mut unsigned = Forge::good().seal();
    unsigned.signatures[20] ^= 1;
    assert_eq!(judge_sealed(&context, &unsigned), Verdict::Refused(Rule::Signature));
    assert!(!asked.take());
}

#[test]
fn a_host_that_speaks_no_protocol_installs_nothing() {
    let mute = Context { protocols: Vec::new(), ..context() };
    assert_eq!(judge_in(&mute, &Forge::good()), Verdict::Refused(Rule::Protocol));
}

type Fault = fn(&mut Manifest);

/// One fault in the manifest for each rule from V6 on that can be had there.
const FAULTS: [(Rule, Fault); 8] = [
    (Rule::Customer, |m| m.customer.id = "acme".parse().unwrap()),
    (Rule::Platform, |m| m.target.platform = "linux-arm64".parse().unwrap()),
    (Rule::Protocol, |m| m.protocol.versions = vec![9]),
    (Rule::Tier, |m| m.plugin.required_tier = Tier::Enterprise),
    (Rule::Rollback, |m| m.plugin.sequence = 1),
    (Rule::Expiry, |m| m.plugin.expires = Some(time(1))),
    (Rule::Payload, |m| m.payload.frames[0].sha256 = Digest::of(b"")),
    (Rule::Identity, |m| m.build.base_sha256 = Digest::of(b"")),
];

/// Exit codes and what to do depend on the rule, so that of two faults the first must be named.
#[test]
fn of_two_faults_the_earlier_rule_refuses() {
    for (index, (rule, fault)) in FAULTS.iter().enumerate() {
        for (later, other) in &FAULTS[index + 1..] {
            let package = Forge::good().saying(fault).saying(other).bytes();
            let verdict = judge(&package);
            assert_eq!(verdict, Verdict::Refused(*rule), "{rule:?} and {later:?}");
        }
    }
}

#[test]
fn an_untrusted_signer_is_refused_before_anything_is_said_about_the_text() {
    for (_, fault) in FAULTS {
        let sealed = Forge::good().saying(fault).seal();
        let signature = sign(&stranger_key(), &sealed.manifest);
        let verdict = judge(&sealed.signed(vec![signature]).bytes());
        assert_eq!(verdict, Verdict::Refused(Rule::Signature));
    }
}

/// The good package lies at the limit of each rule, so these say something.
#[test]
fn the_good_package_is_at_the_limits() {
    let manifest = Forge::good().manifest;
    assert_eq!(manifest.customer.id.as_str(), CUSTOMER);
    assert_eq!(manifest.plugin.sequence, SEQUENCE);
    assert_eq!(manifest.plugin.expires, Some(time(NOW + 1)));
    assert_eq!(manifest.plugin.required_tier, manifest.customer.tier);
    assert_eq!(manifest.build.base_sha256, base_digest(&compiled()));
}
