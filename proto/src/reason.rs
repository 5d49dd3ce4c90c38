//! Why a request was refused: the closed list of reasons that clients may rely on.
//!
//! Invariants: a reason's name never changes its meaning; every reason has one gRPC code and says whether the outcome is
//! definite (nothing was appended, and nothing will be) or unknown; `proto/ERRORS.md` is this table, kept equal by a test.

use std::fmt;

use tonic::Code;

/// What a refusal says about the request's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The request had no effect and will have none.
    Definite,
    /// The request may have taken effect, or may yet.
    Unknown,
}

impl Outcome {
    /// The word used in `ERRORS.md`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Definite => "definite",
            Self::Unknown => "unknown",
        }
    }
}

/// How to go on after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Repeating is pointless: the answer will be the same, or a person must look.
    Never,
    /// Repeat the same request (the same keys, the same content), after a pause.
    SameRequest,
    /// Repair the request, then send it.
    AfterFixing,
}

impl Retry {
    /// The words used in `ERRORS.md`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::SameRequest => "same request",
            Self::AfterFixing => "after fixing it",
        }
    }
}

/// One row of the table.
struct Row {
    reason: Reason,
    name: &'static str,
    code: Code,
    outcome: Outcome,
    retry: Retry,
    describe: &'static str,
}

macro_rules! reasons {
    ($($variant:ident $name:literal $code:ident $outcome:ident $retry:ident $describe:literal;)+) => {
        /// A stable reason, carried as `google.rpc.ErrorInfo.reason` in domain [`DOMAIN`](crate::refusal::DOMAIN).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = $describe] $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of `ERRORS.md`.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),+];
        }

        const TABLE: &[Row] = &[$(Row {
            reason: Reason::$variant,
            name: $name,
            code: Code::$code,
            outcome: Outcome::$outcome,
            retry: Retry::$retry,
            describe: $describe,
        }),+];
    };
}

reasons! {
    Unbalanced "UNBALANCED" InvalidArgument Definite AfterFixing
        "The debits do not equal the credits in every currency of the entry.";
    AmountInvalid "AMOUNT_INVALID" InvalidArgument Definite AfterFixing
        "An amount is not between 1 and 2^63-1 minor units, or sums overflow.";
    CurrencyUnknown "CURRENCY_UNKNOWN" InvalidArgument Definite AfterFixing
        "A posting's currency is not one of the journal's.";
    CurrencyInvalid "CURRENCY_INVALID" InvalidArgument Definite AfterFixing
        "A currency code is not three capital letters.";
    PostingsInvalid "POSTINGS_INVALID" InvalidArgument Definite AfterFixing
        "The number of postings is not 2 to 128, or a note has postings.";
    SideInvalid "SIDE_INVALID" InvalidArgument Definite AfterFixing
        "A posting's side is neither debit nor credit.";
    AccountInvalid "ACCOUNT_INVALID" InvalidArgument Definite AfterFixing
        "An account is not 1 to 64 bytes of UTF-8 without control, bidirectional, zero-width and other characters that do not show.";
    KeyInvalid "KEY_INVALID" InvalidArgument Definite AfterFixing
        "A key is not 1 to 64 bytes of UTF-8 without control characters.";
    KeyRepeated "KEY_REPEATED" InvalidArgument Definite AfterFixing
        "Two entries of one request have the same key and other content.";
    KindInvalid "KIND_INVALID" InvalidArgument Definite AfterFixing
        "An entry's kind is missing or not known.";
    KindUnimplemented "KIND_UNIMPLEMENTED" Unimplemented Definite Never
        "Entries of this kind are not taken by this version.";
    BusinessDateInvalid "BUSINESS_DATE_INVALID" InvalidArgument Definite AfterFixing
        "A business date is not a calendar date written YYYY-MM-DD.";
    BusinessDateClosed "BUSINESS_DATE_CLOSED" FailedPrecondition Definite AfterFixing
        "The entry's business date lies before the journal's.";
    ReferenceInvalid "REFERENCE_INVALID" InvalidArgument Definite AfterFixing
        "A reference is longer than 35 characters or has control characters, or the UETR is not a lower-case UUIDv4.";
    PayloadTooLarge "PAYLOAD_TOO_LARGE" InvalidArgument Definite AfterFixing
        "A payload is larger than 64 KiB.";
    RequestEmpty "REQUEST_EMPTY" InvalidArgument Definite AfterFixing
        "The request has no entries.";
    RequestTooLarge "REQUEST_TOO_LARGE" InvalidArgument Definite AfterFixing
        "The request has more than 8,192 entries or more than 4 MiB encoded.";
    JournalNameInvalid "JOURNAL_NAME_INVALID" InvalidArgument Definite AfterFixing
        "A journal's name does not match [a-z0-9_-]{1,64}.";
    JournalReserved "JOURNAL_RESERVED" PermissionDenied Definite AfterFixing
        "Journals whose names begin with _ are the system's: clients can neither make them nor append to them.";
    CurrenciesInvalid "CURRENCIES_INVALID" InvalidArgument Definite AfterFixing
        "A journal's currencies are not 1 to 16 different codes with 0 to 4 digits.";
    ClassInvalid "CLASS_INVALID" InvalidArgument Definite AfterFixing
        "The durability class is not known.";
    ConsistencyInvalid "CONSISTENCY_INVALID" InvalidArgument Definite AfterFixing
        "The consistency is not known.";
    PageTokenInvalid "PAGE_TOKEN_INVALID" InvalidArgument Definite AfterFixing
        "The page token is not one that this method returned for this request.";
    PageSizeInvalid "PAGE_SIZE_INVALID" InvalidArgument Definite AfterFixing
        "The page size is above the method's maximum.";
    RangeInvalid "RANGE_INVALID" InvalidArgument Definite AfterFixing
        "The seq range ends before it begins.";
    SelectorMissing "SELECTOR_MISSING" InvalidArgument Definite AfterFixing
        "Neither seq nor key says which entry is meant.";
    RequestMalformed "REQUEST_MALFORMED" InvalidArgument Definite AfterFixing
        "The request is malformed in a way that no other reason names.";
    MethodUnknown "METHOD_UNKNOWN" Unimplemented Definite AfterFixing
        "The asked address has no such service or method.";
    EncodingUnsupported "ENCODING_UNSUPPORTED" Unimplemented Definite AfterFixing
        "The request is compressed; nodes take messages as they are.";

    JournalNotFound "JOURNAL_NOT_FOUND" NotFound Definite AfterFixing
        "No journal has this name.";
    EntryNotFound "ENTRY_NOT_FOUND" NotFound Definite AfterFixing
        "The journal has no entry with this seq or key.";
    JournalExists "JOURNAL_EXISTS" AlreadyExists Definite Never
        "A journal of this name exists with other settings.";
    KeyConflict "KEY_CONFLICT" AlreadyExists Definite Never
        "The key is in the journal with other content; metadata `seq` and `key` name the original.";
    NodeNotFound "NODE_NOT_FOUND" NotFound Definite AfterFixing
        "The topology has no node of this name.";
    GroupNotFound "GROUP_NOT_FOUND" NotFound Definite AfterFixing
        "The cluster has no group of this number.";
    TransferRefused "TRANSFER_REFUSED" FailedPrecondition Definite SameRequest
        "Leadership was not moved: the target is down, lags, or may not lead.";

    MemberRefused "MEMBER_REFUSED" FailedPrecondition Definite AfterFixing
        "The members were not changed: the node is in no state for it, or the placement would be weaker; the message says which.";

    NoLeader "NO_LEADER" Unavailable Definite SameRequest
        "No leader is known to the asked node; an election is probably going on.";
    NotAMember "NOT_A_MEMBER" Unavailable Definite SameRequest
        "The asked node was removed from the group and hears of nothing any more; ask another node.";
    PlacementUnreachable "PLACEMENT_UNREACHABLE" Unavailable Definite SameRequest
        "The durability class cannot be reached now, or the budget for doing without the remote site is spent; nothing was appended.";
    Overloaded "OVERLOADED" ResourceExhausted Definite SameRequest
        "The node holds as many requests or bytes as it may; nothing was proposed.";
    CallerStalled "CALLER_STALLED" DeadlineExceeded Definite SameRequest
        "The caller sent no more of a request for too long; the request was not taken.";
    DiskFull "DISK_FULL" ResourceExhausted Definite SameRequest
        "The leader's disk is nearly full; nothing was proposed. Reads go on.";
    DiskStalled "DISK_STALLED" Unavailable Definite SameRequest
        "The leader's disk finishes no write; nothing was proposed. Leadership moves to a node whose disk does.";
    Recovering "RECOVERING" Unavailable Definite SameRequest
        "The node has not finished its start, repairs the damaged group, or the cluster is being formed; nothing was proposed.";
    ShuttingDown "SHUTTING_DOWN" Unavailable Definite SameRequest
        "The node is stopping; nothing was proposed.";
    StorageFailed "STORAGE_FAILED" Unavailable Definite SameRequest
        "A write or flush failed on the asked node before this request, which was not proposed; the node stops for good, ask another.";
    WrongCluster "WRONG_CLUSTER" FailedPrecondition Definite Never
        "The caller belongs to another cluster or to an older life of this one.";
    OutcomeUnknown "OUTCOME_UNKNOWN" Unknown Unknown SameRequest
        "What was proposed may or may not be in the journal; repeating the same request resolves it.";
    Internal "INTERNAL" Internal Unknown SameRequest
        "Something failed that should not; the node's log tells more.";
}

impl Reason {
    fn row(self) -> &'static Row {
        // The enum and the table come out of one macro, in one order.
        &TABLE[self as usize]
    }

    /// The name on the wire, in SCREAMING_SNAKE_CASE.
    pub fn as_str(self) -> &'static str {
        self.row().name
    }

    /// The reason of this name on the wire, or none if this version does not know it.
    pub fn parse(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.reason)
    }

    /// The gRPC code that it travels with.
    pub fn grpc_code(self) -> Code {
        self.row().code
    }

    /// Whether the request is known to have had no effect.
    pub fn outcome(self) -> Outcome {
        self.row().outcome
    }

    /// Whether this refusal of one attempt also settles an earlier attempt whose answer was lost, and which may still be on
    /// its way: only where every attempt with this content gets the same answer, whenever it arrives.
    pub fn settles_earlier_attempts(self) -> bool {
        if self.outcome() == Outcome::Unknown {
            return false;
        }
        match self {
            // The journal may have been made, or the currency come into being with it, in between.
            Self::CurrencyUnknown => false,
            // A key, once taken, stays taken; a name too; a business date never goes back (and what had been appended before
            // would have been answered with its receipt).
            Self::KeyConflict
            | Self::JournalExists
            | Self::BusinessDateClosed
            | Self::KindUnimplemented
            | Self::JournalReserved => true,
            _ => self.grpc_code() == Code::InvalidArgument,
        }
    }

    /// How to go on.
    pub fn retry(self) -> Retry {
        self.row().retry
    }

    /// One sentence on what it means.
    pub fn describe(self) -> &'static str {
        self.row().describe
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The gRPC name of a status code, e.g. `INVALID_ARGUMENT`.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    /// The table of `ERRORS.md`.
    fn table() -> String {
        let mut table =
            String::from("| reason | gRPC code | outcome | repeat | meaning |\n|---|---|---|---|---|\n");
        for &reason in Reason::ALL {
            let (outcome, retry) = (reason.outcome().as_str(), reason.retry().as_str());
            let code = code_name(reason.grpc_code());
            writeln!(table, "| `{reason}` | {code} | {outcome} | {retry} | {} |", reason.describe()).unwrap();
        }
        table
    }

    #[test]
    fn errors_md_is_this_table() {
        let document = include_str!("../ERRORS.md");
        let table = table();
        assert!(document.contains(&table), "ERRORS.md must hold exactly this table:\n{table}");
        let rows = document.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, Reason::ALL.len(), "ERRORS.md has rows beside the table");
    }

    #[test]
    fn names_are_stable_words() {
        let mut seen = BTreeSet::new();
        for &reason in Reason::ALL {
            let name = reason.as_str();
            assert!(name.len() <= 63 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{name}");
            assert!(seen.insert(name), "{name} twice");
            assert_eq!(Reason::parse(name), Some(reason));
            assert!(reason.describe().ends_with('.'), "{name}");
        }
        assert_eq!(Reason::parse("unbalanced"), None);
        assert_eq!(Reason::parse(""), None);
    }

    #[test]
    fn outcome_and_retry_agree() {
        for &reason in Reason::ALL {
            if reason.outcome() == Outcome::Unknown {
                assert_eq!(
                    reason.retry(),
                    Retry::SameRequest,
                    "{reason}: only repeating resolves an unknown"
                );
            }
            if reason.grpc_code() == Code::InvalidArgument {
                assert_eq!(
                    (reason.outcome(), reason.retry()),
                    (Outcome::Definite, Retry::AfterFixing),
                    "{reason}"
                );
            }
            if reason.grpc_code() == Code::Unavailable {
                assert_eq!(reason.retry(), Retry::SameRequest, "{reason}");
            }
            assert_ne!(reason.grpc_code(), Code::Ok);
        }
    }
}
