//! `tercet journal`: makes journals and shows them.

use clap::{Args, Subcommand, ValueEnum};
use tercet_proto::json::to_json;
use tercet_proto::v1;
use tercet_proto::v1::{Consistency, DurabilityClass, HashAlgorithm};

use super::connect::EndpointArgs;
use super::exit::Failure;
use super::output::{Column, hex, print, printable, table, utc};

/// Full name of [`v1::Journal`].
const JOURNAL: &str = "tercet.v1.Journal";

/// Verbs of `tercet journal`.
#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Makes a journal; the same name with the same settings is the journal that exists
    Create(CreateArgs),
    /// Lists all journals
    List(ListArgs),
    /// Shows one journal
    Show(ShowArgs),
}

/// A durability class as the command line writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClassArg {
    /// On a majority of voters in at least two zones
    City,
    /// On a majority of voters and in every site
    Geo,
}

impl From<ClassArg> for DurabilityClass {
    fn from(class: ClassArg) -> Self {
        match class {
            ClassArg::City => Self::City,
            ClassArg::Geo => Self::Geo,
        }
    }
}

/// Arguments of `tercet journal create`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet journal create payments --currency CNY:2 --business-date 2026-01-05
  tercet journal create fx --currency CZK:2 --currency JPY:0 --business-date 2026-01-05")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// The journal's name: a-z, 0-9, _ and -, at most 64
    #[arg(value_name = "NAME")]
    name: String,
    /// ISO 4217 code and minor-unit digits; may be given several times
    #[arg(long = "currency", value_name = "CODE:DIGITS", required = true, value_delimiter = ',', value_parser = parse_currency)]
    currencies: Vec<v1::Currency>,
    /// Where entries must be flushed before they are acknowledged
    #[arg(long, value_enum, default_value_t = ClassArg::City)]
    class: ClassArg,
    /// The first business date
    #[arg(long, value_name = "YYYY-MM-DD")]
    business_date: String,
    /// Prints the journal as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `tercet journal list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet journal list
  tercet journal list --json | jq .name")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// Prints one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Arguments of `tercet journal show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet journal show interbank")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// The journal
    #[arg(value_name = "NAME")]
    name: String,
    /// Prints the journal as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs a verb of `tercet journal`.
///
/// # Errors
/// What the cluster refused, or why it cannot be reached.
pub(crate) async fn journal(command: JournalCommand) -> Result<(), Failure> {
    match command {
        JournalCommand::Create(args) => {
            let client = args.endpoint.connect()?;
            let journal = client
                .create_journal(v1::CreateJournalRequest {
                    name: args.name,
                    currencies: args.currencies,
                    default_class: DurabilityClass::from(args.class).into(),
                    business_date: args.business_date,
                })
                .await?;
            show_one(&journal, args.json)
        }
        JournalCommand::List(args) => {
            let client = args.endpoint.connect()?;
            let journals = client.list_journals(Consistency::Linearizable).await?;
            if args.json {
                return journals.iter().try_for_each(|journal| show_one(journal, true));
            }
            print(&journals_table(&journals))
        }
        JournalCommand::Show(args) => {
            let client = args.endpoint.connect()?;
            show_one(&client.get_journal(&args.name, Consistency::Linearizable).await?, args.json)
        }
    }
}

fn show_one(journal: &v1::Journal, json: bool) -> Result<(), Failure> {
    if json {
        let text = to_json(journal, JOURNAL).map_err(|error| Failure::failed(error.to_string()))?;
        return print(&text);
    }
    print(&describe(journal))
}

fn journals_table(journals: &[v1::Journal]) -> String {
    let columns = [
        Column::Text("journal"),
        Column::Text("currencies"),
        Column::Text("class"),
        Column::Text("business date"),
        Column::Number("head seq"),
        Column::Number("group"),
        Column::Text("created at"),
    ];
    let rows: Vec<Vec<String>> = journals
        .iter()
        .map(|journal| {
            vec![
                journal.name.clone(),
                currencies_text(journal),
                class_text(journal.default_class()).to_owned(),
                journal.business_date.clone(),
                journal.head.as_ref().map_or(0, |head| head.seq).to_string(),
                journal.group.to_string(),
                utc(journal.created_at_us),
            ]
        })
        .collect();
    table(&columns, &rows)
}

fn describe(journal: &v1::Journal) -> String {
    let algorithm = match journal.hash_algorithm() {
        HashAlgorithm::Sha256 => "SHA-256",
        HashAlgorithm::Sm3 => "SM3",
        HashAlgorithm::Unspecified => "unknown",
    };
    let head = journal.head.clone().unwrap_or_default();
    let lines = [
        ("journal", printable(&journal.name)),
        ("currencies", currencies_text(journal)),
        ("class", class_text(journal.default_class()).to_owned()),
        ("business date", printable(&journal.business_date)),
        ("hash", algorithm.to_owned()),
        ("head seq", head.seq.to_string()),
        ("head chain hash", hex(&head.chain_hash)),
        ("group", journal.group.to_string()),
        ("created at", utc(journal.created_at_us)),
        ("creation record", hex(&journal.creation_record)),
    ];
    let lines: Vec<String> = lines.into_iter().map(|(name, value)| format!("{name:<15}  {value}")).collect();
    lines.join("\n")
}

fn currencies_text(journal: &v1::Journal) -> String {
    let currencies: Vec<String> =
        journal.currencies.iter().map(|currency| format!("{}:{}", currency.code, currency.digits)).collect();
    currencies.join(" ")
}

/// A class in the word of the command line.
pub(crate) const fn class_text(class: DurabilityClass) -> &'static str {
    match class {
        DurabilityClass::City => "city",
        DurabilityClass::Geo => "geo",
        DurabilityClass::Unspecified => "-",
    }
}

fn parse_currency(text: &str) -> Result<v1::Currency, String> {
    let wrong = || format!("{text:?} is not CODE:DIGITS, e.g. CZK:2");
    let (code, digits) = text.split_once(':').ok_or_else(wrong)?;
    Ok(v1::Currency { code: code.to_owned(), digits: digits.parse().map_err(|_| wrong())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interbank() -> v1::Journal {
        v1::Journal {
            name: "interbank".to_owned(),
            currencies: vec![
                v1::Currency { code: "CZK".to_owned(), digits: 2 },
                v1::Currency { code: "JPY".to_owned(), digits: 0 },
            ],
            default_class: DurabilityClass::City.into(),
            business_date: "1999-01-04".to_owned(),
            hash_algorithm: HashAlgorithm::Sha256.into(),
            head: Some(v1::Head { seq: 6_471, chain_hash: vec![0xab; 32].into() }),
            group: 0,
            created_at_us: 0,
            creation_record: vec![1, 2].into(),
        }
    }

    #[test]
    fn currencies_are_a_code_and_digits() {
        assert_eq!(parse_currency("CZK:2"), Ok(v1::Currency { code: "CZK".to_owned(), digits: 2 }));
        for wrong in ["CZK", "CZK:", "CZK:x", "CZK:-1"] {
            assert!(parse_currency(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn journals_are_listed_and_described() {
        let list = journals_table(&[interbank()]);
        let row: Vec<&str> = list.lines().nth(1).expect("a row").split_whitespace().collect();
        let expected =
            ["interbank", "CZK:2", "JPY:0", "city", "1999-01-04", "6471", "0", "1970-01-01T00:00:00Z"];
        assert_eq!(row, expected);
        let text = describe(&interbank());
        assert!(text.contains(&format!("head chain hash  {}", "ab".repeat(32))), "{text}");
        assert!(text.contains("creation record  0102"), "{text}");
    }
}
