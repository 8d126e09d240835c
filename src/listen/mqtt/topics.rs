//! The two topics of the token exchange, and how filters meet them (MQTT 5.0 §4.7, §4.8.2).

/// A topic that belongs to the edge. Neither ever reaches the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnTopic {
    /// `s/uat`: a message asks for a token.
    Request,
    /// `s/dat`: a message brings one.
    Answer,
}

pub const ANSWER: &str = "s/dat";
/// The length of both: of most messages nothing more is looked at.
pub const LENGTH: usize = 5;

impl OwnTopic {
    pub fn of(topic: &[u8]) -> Option<OwnTopic> {
        match topic {
            b"s/uat" => Some(OwnTopic::Request),
            b"s/dat" => Some(OwnTopic::Answer),
            _ => None,
        }
    }

    /// The topic that a filter names without wildcards, shared or not.
    pub fn of_filter(filter: &str) -> Option<OwnTopic> {
        OwnTopic::of(unshared(filter).as_bytes())
    }
}

/// Whether an answer meets a filter.
pub fn takes_answers(filter: &str) -> bool {
    let mut levels = unshared(filter).split('/');
    for level in ANSWER.split('/') {
        match levels.next() {
            Some("#") => return true,
            Some(wanted) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    // `s/dat/#` takes its parent too.
    matches!((levels.next(), levels.next()), (None | Some("#"), None))
}

/// A filter without `$share/<group>/`.
fn unshared(filter: &str) -> &str {
    filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(filter, |(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_and_shared_filters_meet_the_answer() {
        for filter in
            ["s/dat", "s/+", "+/dat", "+/+", "s/#", "#", "s/dat/#", "$share/g/s/dat", "$share/g/#"]
        {
            assert!(takes_answers(filter), "{filter}");
        }
        for filter in
            ["", "s", "s/uat", "s//dat", "/s/dat", "s/dat/", "s/dat/x", "+", "S/dat", "$SYS/#"]
        {
            assert!(!takes_answers(filter), "{filter}");
        }
    }

    #[test]
    fn own_topics_are_exact() {
        assert_eq!(OwnTopic::of_filter("s/uat"), Some(OwnTopic::Request));
        assert_eq!(OwnTopic::of_filter("$share/g/s/dat"), Some(OwnTopic::Answer));
        for other in ["s//uat", "/s/uat", "s/uat/", "S/UAT", "s/#", "$share/s/uat", "s/uat\0"] {
            assert_eq!(OwnTopic::of_filter(other), None, "{other}");
        }
    }
}
