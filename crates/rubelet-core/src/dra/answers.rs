//! What a driver's answer has to be before it is believed: one result for each claim that was asked about, no other, none of
//! them a failure. The words are upstream's. Pure.

use std::collections::BTreeMap;

use super::book::ClaimId;

/// Why an answer is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// It tells of a claim that nobody asked about.
    #[error("{call} returned result for unknown claim UID {uid}")]
    Unknown {
        /// The call.
        call: &'static str,
        /// The UID it told of.
        uid: String,
    },
    /// The driver could not do it for one claim.
    #[error("{call} failed for ResourceClaim {claim}: {reason}")]
    Failed {
        /// The call.
        call: &'static str,
        /// Name of the claim.
        claim: String,
        /// The driver's words.
        reason: String,
    },
    /// It does not tell of every claim.
    #[error("{call} skipped {count} ResourceClaims")]
    Skipped {
        /// The call.
        call: &'static str,
        /// How many are missing.
        count: usize,
    },
}

/// Results of claims, by UID, as a driver gave them.
pub type Results<T> = BTreeMap<String, Result<T, String>>;

/// What a driver did, and what is wrong with its answer. The good part counts even where there is a problem: the driver has
/// done it.
pub fn read<T>(
    call: &'static str,
    asked: &[ClaimId],
    results: Results<T>,
) -> (Vec<(ClaimId, T)>, Option<BadAnswer>) {
    let (mut done, mut problem) = (vec![], None);
    let mut found = 0;
    for (uid, result) in results {
        let Some(claim) = asked.iter().find(|claim| claim.uid == uid) else {
            problem.get_or_insert(BadAnswer::Unknown { call, uid });
            continue;
        };
        found += 1;
        match result {
            Ok(value) => done.push((claim.clone(), value)),
            Err(reason) => {
                let claim = claim.key.name.clone();
                problem.get_or_insert(BadAnswer::Failed { call, claim, reason });
            }
        }
    }
    if problem.is_none() && found < asked.len() {
        problem = Some(BadAnswer::Skipped { call, count: asked.len() - found });
    }
    (done, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dra::ClaimKey;

    #[test]
    fn every_claim_has_to_be_answered_for_and_no_other() {
        let id = |name: &str| ClaimId { key: ClaimKey::new("ns", name), uid: format!("uid-{name}") };
        let asked = [id("a"), id("b")];
        let check = |results: &[(&str, Result<u8, &str>)], done: &[u8], problem: &str| {
            let own = |result: Result<u8, &str>| result.map_err(str::to_owned);
            let results = results.iter().map(|(uid, result)| ((*uid).to_owned(), own(*result))).collect();
            let (got, told) = read("NodePrepareResources", &asked, results);
            assert_eq!(got.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), done);
            assert_eq!(told.map(|told| told.to_string()).unwrap_or_default(), problem);
        };
        check(&[("uid-a", Ok(1)), ("uid-b", Ok(2))], &[1, 2], "");
        check(&[("uid-a", Ok(1))], &[1], "NodePrepareResources skipped 1 ResourceClaims");
        let failed = "NodePrepareResources failed for ResourceClaim b: broken";
        check(&[("uid-a", Ok(1)), ("uid-b", Err("broken"))], &[1], failed);
        let unknown = "NodePrepareResources returned result for unknown claim UID x";
        check(&[("uid-a", Ok(1)), ("uid-b", Ok(2)), ("x", Ok(3))], &[1, 2], unknown);
        check(&[], &[], "NodePrepareResources skipped 2 ResourceClaims");
    }
}
