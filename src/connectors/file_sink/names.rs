//! Names of output files. Pure.

use crate::types::OperatorId;

/// What a hidden name ends with.
const PENDING: &str = ".inprogress";

/// Which file of which run. Ordered as its names are, per subtask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Part {
    pub(super) generation: u64,
    pub(super) attempt: u32,
    pub(super) subtask: u32,
    pub(super) sequence: u64,
}

/// A file found in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) part: Part,
    pub(super) visible: bool,
}

/// The names of one sink's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// With the `-` at its end.
    prefix: String,
}

impl Names {
    pub(super) fn of(operator: &OperatorId) -> Self {
        let mut prefix = String::from("part-");
        for byte in operator.as_str().bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                prefix.push(char::from(byte));
            } else {
                prefix.push_str(&format!("%{byte:02X}"));
            }
        }
        prefix.push('-');
        Self { prefix }
    }

    /// The name that readers see.
    pub(super) fn visible(&self, part: Part, suffix: &str) -> String {
        format!("{}{suffix}", self.stem(part))
    }

    /// The hidden name.
    pub(super) fn pending(&self, part: Part) -> String {
        format!(".{}{PENDING}", self.stem(part))
    }

    /// Bytes of the longest name there will be, as long as numbers are no longer than they are padded to.
    pub(super) fn longest(&self, suffix: &str) -> usize {
        let first = Part { generation: 0, attempt: 0, subtask: 0, sequence: 0 };
        self.visible(first, suffix).len().max(self.pending(first).len())
    }

    /// The numbers are padded so that order by name is order by number: for 10^8 runs of the process and of the dataflow, 10^5 subtasks,
    /// and 10^10 checkpoints (63 years of one every 200 ms).
    fn stem(&self, part: Part) -> String {
        let Part { generation, attempt, subtask, sequence } = part;
        format!("{}{generation:08}-{attempt:08}-{subtask:05}-{sequence:010}", self.prefix)
    }

    /// What the file is, if it is one of this sink's. The number of fields is fixed, so a uid that is the beginning of another, followed by
    /// `-` and digits, is not taken for it.
    pub(super) fn parse(&self, name: String) -> Option<Found> {
        let (hidden, rest) = match name.strip_prefix('.') {
            Some(rest) => (true, rest.strip_suffix(PENDING)?),
            None => (false, name.as_str()),
        };
        let rest = rest.strip_prefix(self.prefix.as_str())?;
        // Any suffix: it may have been changed.
        let numbers = if hidden { rest } else { rest.split('.').next()? };
        let mut numbers = numbers.split('-');
        let part = Part {
            generation: number(numbers.next())?,
            attempt: u32::try_from(number(numbers.next())?).ok()?,
            subtask: u32::try_from(number(numbers.next())?).ok()?,
            sequence: number(numbers.next())?,
        };
        numbers.next().is_none().then_some(Found { name, part, visible: !hidden })
    }
}

fn number(digits: Option<&str>) -> Option<u64> {
    let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(uid: &str) -> Names {
        Names::of(&uid.into())
    }

    fn part((generation, attempt, subtask, sequence): (u64, u32, u32, u64)) -> Part {
        Part { generation, attempt, subtask, sequence }
    }

    #[test]
    fn names_are_as_documented() {
        let part = part((12, 3, 4, 56));
        assert_eq!(
            names("op_1-a").visible(part, ".tsv"),
            "part-op_1-a-00000012-00000003-00004-0000000056.tsv"
        );
        assert_eq!(names("op").pending(part), ".part-op-00000012-00000003-00004-0000000056.inprogress");
        assert_eq!(names("a/../ü.").prefix, "part-a%2F%2E%2E%2F%C3%BC%2E-");
    }

    #[test]
    fn other_files_are_not_taken_for_ours() {
        let ours = names("op");
        for name in [
            "",
            "part-op-",
            "part-op-1-2-3",
            "part-op-1-2-3-4-5",
            "part-op-+1-2-3-4",
            "part-op-1-2-3-x",
            "part-op-1-99999999999-3-4",
            "part-other-1-2-3-4",
            ".part-op-1-2-3-4",
            ".part-op-1-2-3-4.inprogress.bak",
            "readme.txt",
        ] {
            assert_eq!(ours.parse(name.to_owned()), None, "{name}");
        }
        let longer = names("op-00000001").visible(part((1, 1, 1, 1)), "");
        assert_eq!(ours.parse(longer), None);
        assert!(ours.parse("part-op-1-2-3-4.tsv.gz".to_owned()).unwrap().visible);
    }

    proptest! {
        #[test]
        fn a_name_is_read_back(uid in "\\PC{1,12}", numbers in any::<(u64, u32, u32, u64)>(), other in "\\PC{1,12}") {
            let part = part(numbers);
            let names = names(&uid);
            for (visible, name) in [(true, names.visible(part, ".x-1")), (false, names.pending(part))] {
                prop_assert!(!name.contains('/'));
                prop_assert_eq!(names.parse(name.clone()), Some(Found { name: name.clone(), part, visible }));
                if other != uid {
                    prop_assert_eq!(Names::of(&other.as_str().into()).parse(name), None);
                }
            }
        }

        #[test]
        fn order_by_name_is_order_by_part(
            a in (0..100_000_000_u64, 0..100_000_000_u32, 0..100_000_u32, 0..10_000_000_000_u64),
            b in (0..100_000_000_u64, 0..100_000_000_u32, 0..100_000_u32, 0..10_000_000_000_u64),
        ) {
            let names = names("op");
            prop_assert_eq!(names.visible(part(a), "").cmp(&names.visible(part(b), "")), a.cmp(&b));
        }
    }
}
