//! What a profile sets, what goes before it, and how it is described.

use super::*;

/// The keys that a profile sets, in the order of the page.
type Keys = (&'static str, u16, Comparison, QueryRule, bool, bool);

fn keys(policy: &Policy) -> (String, u16, Comparison, QueryRule, bool, bool) {
    let methods = policy.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(" ");
    let service = &policy.service;
    let status = policy.conflict_status.as_u16();
    (methods, status, policy.comparison, policy.query.clone(), service.if_header, service.trust_write_tags)
}

fn parts_of_s3() -> QueryRule {
    let names = ["acl", "attributes", "legal-hold", "partNumber", "retention", "tagging", "torrent", "versionId"];
    QueryRule::Only(names.map(str::to_owned).to_vec())
}

#[test]
fn each_profile_sets_the_same_keys() {
    use Comparison::{Strong, Weak};
    use QueryRule::{Ignore, Include};
    let common = "PUT PATCH DELETE";
    let webdav = "PUT PATCH DELETE PROPPATCH MKCOL COPY MOVE ACL MKCALENDAR BIND UNBIND REBIND";
    let rows: [(&str, Keys); 7] = [
        ("express", (common, 409, Weak, Include, false, false)),
        ("fhir", (common, 412, Weak, Ignore, false, true)),
        ("odata", ("PUT PATCH DELETE MERGE", 412, Weak, Ignore, false, true)),
        ("scim", (common, 412, Weak, Ignore, false, true)),
        ("webdav", (webdav, 412, Strong, Include, true, true)),
        ("s3", (common, 412, Strong, parts_of_s3(), false, true)),
        ("none", (common, 409, Strong, Include, false, true)),
    ];
    for (name, (methods, status, comparison, query, if_header, trust)) in rows {
        let policy = guard(&format!("profile = \"{name}\""));
        assert_eq!(keys(&policy), (methods.to_owned(), status, comparison, query, if_header, trust), "{name}");
        assert_eq!(policy.service.profile.map_or("none", Profile::as_str), name);
        let reads: Vec<_> = policy.service.safe_methods.iter().map(Method::as_str).collect();
        assert_eq!(reads, if name == "webdav" { &["PROPFIND", "REPORT", "SEARCH"][..] } else { &[] }, "{name}");
        // And nothing else.
        let standard = Policy::default();
        let rest = Policy {
            methods: standard.methods.clone(),
            conflict_status: standard.conflict_status,
            comparison: standard.comparison,
            query: standard.query.clone(),
            service: standard.service.clone(),
            ..policy
        };
        assert_eq!(rest, standard, "{name}");
    }
}

#[test]
fn a_key_beside_a_profile_goes_before_it() {
    for keys in [
        "profile = \"fhir\"\nconflict_status = 409\nquery = \"include\"\nmethods = [\"PUT\"]",
        "methods = [\"PUT\"]\nquery = \"include\"\nconflict_status = 409\nprofile = \"fhir\"",
    ] {
        let policy = guard(keys);
        assert_eq!((policy.conflict_status, policy.comparison), (StatusCode::CONFLICT, Comparison::Weak));
        assert_eq!((policy.query, policy.methods), (QueryRule::Include, vec![Method::PUT]));
    }
}

#[test]
fn a_routes_profile_goes_before_the_global_guard_and_leaves_nothing_of_another() {
    let routes = parsed(&format!(
        "{BASE}[guard]\nprofile = \"webdav\"\nconflict_status = 409\nmissing = \"require\"\nconflict_body = \"simple\"\n\
         [[routes]]\npath = \"/s3/{{*key}}\"\nguard = {{ profile = \"s3\" }}\n\
         [[routes]]\npath = \"/plain/{{*key}}\"\nguard = {{ profile = \"none\" }}\n\
         [[routes]]\npath = \"/weak/{{*key}}\"\nguard = {{ comparison = \"weak\" }}\n\
         [[routes]]\n"
    ))
    .routes;
    let policies: Vec<_> = routes.into_iter().map(|route| route.policy).collect();
    for policy in &policies {
        assert_eq!((policy.missing, policy.service.conflict_body), (Missing::Require, ConflictBody::Simple));
    }
    assert_eq!(keys(&policies[0]), keys(&guard("profile = \"s3\"")));
    assert_eq!(keys(&policies[1]), keys(&Policy::default()));
    assert_eq!(policies[1].service.profile, None);
    let inherited = keys(&guard("profile = \"webdav\"\nconflict_status = 409"));
    assert_eq!(keys(&policies[3]), inherited);
    assert_eq!(keys(&policies[2]), keys(&guard("profile = \"webdav\"\nconflict_status = 409\ncomparison = \"weak\"")));
    assert_eq!(policies[2].service.profile, Some(Profile::Webdav));
}

#[test]
fn a_profile_is_described_key_by_key() {
    let text = format!("{BASE}[guard]\nprofile = \"fhir\"\nconflict_status = 409\nconflict_body = \"simple\"\n");
    let described = parsed(&text).describe();
    let expected = "
    Profile \"fhir\", which means:
      methods = [\"PUT\", \"PATCH\", \"DELETE\"]
      safe_methods = []
      conflict_status = 412, but 409 here
      comparison = \"weak\"
      query = \"ignore\"
      if_header = false
      trust_write_tags = true
";
    assert!(described.contains(expected), "{described}");
    assert!(described.contains("A conflict is answered 409.\n"), "{described}");
    assert!(described.contains("A refusal's body has nothing but the sentence \"error\".\n"), "{described}");
    for (name, rule) in [
        ("webdav", "Taken for reads: PROPFIND, REPORT and SEARCH.\n    The tags in WebDAV's If are a precondition.\n"),
        ("express", "The tag of a write's answer is not taken for the new one.\n"),
        ("s3", "      query = [\"acl\", \"attributes\", "),
    ] {
        let described = parsed(&format!("{BASE}[guard]\nprofile = \"{name}\"\n")).describe();
        assert!(described.contains(rule), "{described}");
    }
    assert!(!parsed(BASE).describe().contains("Profile"));
}
