//! A row for each rule of RFC 4918 §10.4, its own examples among them; then what must hold of whatever is read.

use proptest::{collection::vec, prelude::*};

use super::*;

fn demand(text: &str) -> Option<Demand> {
    If::parse(text.as_bytes()).expect(text).demand(|reference| reference == b"/it")
}

/// What is demanded, in words: `a !b | never` stands for two lists.
fn in_words(text: &str) -> String {
    let Some(demand) = demand(text) else { return "nothing".to_owned() };
    let word = |prefix: &str, tags: &Tags| match tags {
        Tags::Any => panic!("no list names every tag"),
        Tags::OneOf(tags) => tags.iter().map(|tag| format!("{prefix}{tag}")).collect::<Vec<_>>().join(" "),
    };
    let list = |one: &Alternative| {
        let current = one.current.iter().map(|tags| word("", tags));
        let not_current = one.not_current.iter().map(|tags| word("!", tags));
        current.chain(not_current).chain(one.never.then(|| "never".to_owned())).collect::<Vec<_>>().join(" ")
    };
    demand.alternatives().iter().map(list).collect::<Vec<_>>().join(" | ")
}

#[test]
fn what_is_demanded_of_the_targets_tags() {
    let rows = [
        ("a tag", "([\"a\"])", "\"a\""),
        ("a weak tag", "([W/\"a\"])", "W/\"a\""),
        ("the conditions of a list must all hold", "([\"a\"] Not [\"b\"])", "\"a\" !\"b\""),
        ("of several lists one must hold", "([\"a\"]) ([\"b\"])", "\"a\" | \"b\""),
        ("a lock's token may hold", "(<urn:uuid:1>)", "nothing"),
        ("and so may its absence", "(Not <urn:uuid:1>)", "nothing"),
        ("a tag beside a token still must hold", "(<urn:uuid:1> [\"a\"])", "\"a\""),
        ("a list without a tag may hold by itself", "([\"a\"]) (<urn:uuid:1>)", "nothing"),
        ("DAV:no-lock never holds", "([\"a\"]) (<DAV:no-lock>)", "\"a\" | never"),
        ("and so not a list with it", "(<DAV:no-lock> [\"a\"])", "\"a\" never"),
        ("its absence always does", "([\"a\"]) (Not <DAV:no-lock>)", "nothing"),
        ("it alone says nothing of tags", "(<DAV:no-lock>)", "nothing"),
        ("a list about the target", "</it> ([\"a\"])", "\"a\""),
        ("two of them", "</it> ([\"a\"]) ([\"b\"])", "\"a\" | \"b\""),
        ("and named twice", "</it> ([\"a\"]) </it> ([\"b\"])", "\"a\" | \"b\""),
        ("a list about another resource may hold", "</other> ([\"a\"])", "nothing"),
        ("also beside one about the target", "</it> ([\"a\"]) </other> ([\"b\"])", "nothing"),
        ("whatever stands first", "</other> ([\"b\"]) </it> ([\"a\"])", "nothing"),
        // §10.4.6 to §10.4.9, shortened.
        ("no-tag production", "(<urn:uuid:181d4fae> [\"I am an ETag\"])", ""),
        ("Not", "(Not <urn:uuid:181d4fae> <urn:uuid:58f202ac>)", "nothing"),
        ("a condition that is always true", "(<urn:uuid:181d4fae>) (Not <DAV:no-lock>)", "nothing"),
        ("tagged lists", "<http://h/it> (<urn:uuid:1> [W/\"A\"]) ([\"strong\"])", "nothing"),
    ];
    for (rule, text, expected) in rows {
        if expected.is_empty() {
            // RFC 4918's own example has spaces in a tag, which RFC 9110 does not allow.
            assert_eq!(If::parse(text.as_bytes()), Err(IfError::Tag(TagError::Byte(b' '))), "{rule}");
        } else {
            assert_eq!(in_words(text), expected, "{rule}: {text}");
        }
    }
}

#[test]
fn white_space_and_the_case_of_not_mean_nothing() {
    for text in [
        "([\"a\"]Not[\"b\"])",
        "  ( [\"a\"]  not [\"b\"] )  ",
        "(\t[ \"a\" ]\tNOT\t[\t\"b\"\t])",
        "</it>([\"a\"]Not[\"b\"])",
        " </it> \t ( [\"a\"] Not [\"b\"] ) ",
    ] {
        assert_eq!(in_words(text), "\"a\" !\"b\"", "{text}");
    }
}

#[test]
fn what_is_not_of_the_grammar_is_malformed() {
    let rows = [
        ("", IfError::Empty),
        ("  \t ", IfError::Empty),
        ("\"a\"", IfError::NoList),
        ("[\"a\"]", IfError::NoList),
        ("</it>", IfError::NoList),
        ("</it> </it> ([\"a\"])", IfError::NoList),
        ("</it> [\"a\"]", IfError::NoList),
        ("*", IfError::NoList),
        ("([\"a\"]) *", IfError::NoList),
        ("([\"a\"]), ([\"b\"])", IfError::NoList),
        ("([\"a\"]) x", IfError::NoList),
        ("()", IfError::EmptyList),
        ("</it> ( )", IfError::EmptyList),
        ("(", IfError::Unclosed),
        ("([\"a\"]", IfError::Unclosed),
        ("([\"a\")", IfError::Unclosed),
        ("(<urn:uuid:1)", IfError::Unclosed),
        ("(Not", IfError::Unclosed),
        ("(Not )", IfError::Condition),
        ("(Not Not [\"a\"])", IfError::Condition),
        ("(\"a\")", IfError::Condition),
        ("(No [\"a\"])", IfError::Condition),
        ("(([\"a\"]))", IfError::Condition),
        ("(<>)", IfError::Reference),
        ("(</relative>)", IfError::Reference),
        ("(<urn uuid>)", IfError::Reference),
        ("<> ([\"a\"])", IfError::Reference),
        ("<a b> ([\"a\"])", IfError::Reference),
        ("([\"a\"]) </it> ([\"b\"])", IfError::Mixed),
        ("([])", IfError::Tag(TagError::Unquoted)),
        ("([a])", IfError::Tag(TagError::Unquoted)),
        ("([*])", IfError::Tag(TagError::Unquoted)),
        ("([w/\"a\"])", IfError::Tag(TagError::Unquoted)),
        ("([\"a])", IfError::Tag(TagError::Unterminated)),
        ("([\"a\", \"b\"])", IfError::Unclosed),
        ("([\"a\" \"b\"])", IfError::Unclosed),
    ];
    for (text, error) in rows {
        assert_eq!(If::parse(text.as_bytes()), Err(error), "{text}");
    }
}

#[test]
fn a_field_has_so_many_conditions_and_no_more() {
    for (one, several) in [("([\"a\"])", 1), ("([\"a\"]<urn:uuid:1>Not[\"b\"]<urn:uuid:2>)", 4)] {
        let most = one.repeat(CONDITIONS / several);
        assert!(If::parse(most.as_bytes()).is_ok());
        assert_eq!(If::parse(format!("{most}([\"a\"])").as_bytes()), Err(IfError::TooMany));
    }
}

#[test]
fn what_is_left_without_the_tags() {
    for (text, left) in [
        ("([\"a\"])", None),
        ("(Not [\"a\"]) ([\"b\"])", None),
        ("(<urn:uuid:1> [\"a\"])", Some("(<urn:uuid:1>)")),
        ("(Not<urn:uuid:1>[\"a\"]<urn:uuid:2>)", Some("(Not <urn:uuid:1> <urn:uuid:2>)")),
        ("</it> (<urn:uuid:1> [\"a\"])", Some("</it> (<urn:uuid:1>)")),
        // Either list may be the one that holds.
        ("(<urn:uuid:1> [\"a\"]) (<urn:uuid:2> [\"b\"])", Some("(<urn:uuid:1> <urn:uuid:2>)")),
        ("(<urn:uuid:1> [\"a\"]) ([\"b\"])", Some("(<urn:uuid:1>)")),
        // This one is none of them.
        ("([\"a\"]) (<DAV:no-lock> [\"b\"])", None),
        ("(<urn:uuid:1> [\"a\"]) (<DAV:no-lock> <urn:uuid:2>)", Some("(<urn:uuid:1>)")),
        ("(Not <DAV:no-lock> [\"a\"])", Some("(Not <DAV:no-lock>)")),
    ] {
        let read = If::parse(text.as_bytes()).expect(text);
        let found = read.without_tags().map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
        assert_eq!(found.as_deref(), left, "{text}");
        if let Some(left) = left {
            let again = If::parse(left.as_bytes()).expect("of the grammar");
            assert_eq!((again.without_tags(), again.demand(|_| true)), (Some(left.into()), None), "{text}");
        }
    }
}

#[test]
fn a_long_reference_was_kept_and_judged_once_for_each_of_its_lists() {
    let mut asked = 0;
    let text = format!("</it> {} </it> ([\"a\"]) ([\"b\"])", "([\"0\"])".repeat(200));
    let read = If::parse(text.as_bytes()).expect("of the grammar");
    let demand = read.demand(|reference| {
        asked += 1;
        reference == b"/it"
    });
    assert_eq!((asked, demand.map(|demand| demand.alternatives().len())), (2, Some(202)));
}

fn any_condition() -> impl Strategy<Value = String> {
    "(Not )?(<urn:uuid:[0-9]>|<DAV:no-lock>|\\[(W/)?\"[!#-~]{0,4}\"\\])"
}

proptest! {
    #[test]
    fn what_was_written_is_what_is_read(
        lists in vec((proptest::option::of("</[a-c]{0,3}>"), vec(any_condition(), 1..4)), 1..4),
        tagged: bool,
    ) {
        let mut text = String::new();
        for (resource, conditions) in &lists {
            if tagged {
                text.push_str(resource.as_deref().unwrap_or("</x>"));
            }
            text.push_str(&format!("({}) ", conditions.join(" ")));
        }
        let read = If::parse(text.as_bytes()).expect("of the grammar");
        prop_assert!(read.groups.iter().all(|group| group.resource.is_some() == tagged));
        let read_lists: Vec<&List> = read.groups.iter().flat_map(|group| &group.lists).collect();
        prop_assert_eq!(read_lists.len(), lists.len());
        for (list, (_, written)) in read_lists.into_iter().zip(&lists) {
            let printed: Vec<String> = list.iter().map(|condition| {
                let not = if condition.is_negated { "Not " } else { "" };
                match &condition.what {
                    What::Tag(tag) => format!("{not}[{tag}]"),
                    What::Token(token) => format!("{not}<{}>", String::from_utf8_lossy(token)),
                }
            }).collect();
            prop_assert_eq!(&printed, written);
        }
    }

    #[test]
    fn nothing_panics_and_what_is_demanded_names_a_tag(text in "[<>()\\[\\]\"NotWa:/ ]{0,24}") {
        if let Ok(read) = If::parse(text.as_bytes())
            && let Some(demand) = read.demand(|reference| reference == b"/a")
        {
            prop_assert!(text.contains("[\"") || text.contains("[W/\"") || text.contains("[ "), "{}", text);
            prop_assert!(demand.alternatives().iter().all(Alternative::demands));
        }
    }
}
