//! `tercet balance`: the balances of a journal's accounts.

use std::collections::BTreeMap;

use clap::Args;
use tercet_proto::json::to_json;
use tercet_proto::v1;
use tercet_proto::v1::Consistency;

use super::connect::EndpointArgs;
use super::exit::Failure;
use super::money::format_amount;
use super::output::{Column, notice, print, printable, table};

/// Full name of [`v1::Balance`].
const BALANCE: &str = "tercet.v1.Balance";

/// Arguments of `tercet balance`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet balance --journal interbank
  tercet balance --journal interbank AB
  tercet balance --journal interbank --json | jq -r '[.account,.balance]|@tsv'

The table shows decimals as the journal's currencies have them; JSON holds minor units, as strings.")]
pub(crate) struct BalanceArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// The journal
    #[arg(long, value_name = "NAME")]
    journal: String,
    /// Only this account
    #[arg(value_name = "ACCOUNT")]
    account: Option<String>,
    /// Prints one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Shows balances.
///
/// # Errors
/// What the cluster refused, or why it cannot be reached.
pub(crate) async fn balance(args: BalanceArgs) -> Result<(), Failure> {
    let client = args.endpoint.connect()?;
    let balances = client.balances(&args.journal, args.account.as_deref()).await?;
    if args.json {
        return balances.iter().try_for_each(|balance| {
            print(&to_json(balance, BALANCE).map_err(|error| Failure::failed(error.to_string()))?)
        });
    }
    let journal = client.get_journal(&args.journal, Consistency::Linearizable).await?;
    if let (Some(account), true) = (&args.account, balances.is_empty()) {
        notice(&format!(
            "tercet: nothing has been posted to account {:?} of {}",
            account,
            printable(&args.journal)
        ));
    }
    print(&balances_table(&balances, &journal)?)
}

fn balances_table(balances: &[v1::Balance], journal: &v1::Journal) -> Result<String, Failure> {
    let digits: BTreeMap<&str, u32> =
        journal.currencies.iter().map(|currency| (currency.code.as_str(), currency.digits)).collect();
    let columns = [
        Column::Text("account"),
        Column::Text("currency"),
        Column::Number("debits"),
        Column::Number("credits"),
        Column::Number("balance"),
    ];
    let rows: Result<Vec<Vec<String>>, Failure> = balances
        .iter()
        .map(|balance| {
            let digits = digits.get(balance.currency.as_str()).copied().unwrap_or(0);
            let amount =
                |text: &str| -> Result<String, Failure> { Ok(format_amount(minor_units(text)?, digits)) };
            Ok(vec![
                balance.account.clone(),
                balance.currency.clone(),
                amount(&balance.debits)?,
                amount(&balance.credits)?,
                amount(&balance.balance)?,
            ])
        })
        .collect();
    Ok(table(&columns, &rows?))
}

/// A 128-bit number as it travels.
///
/// # Errors
/// The cluster sent something else.
pub(crate) fn minor_units(text: &str) -> Result<i128, Failure> {
    text.parse().map_err(|_| Failure::failed(format!("the cluster sent {text:?} where an amount must be")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balances_have_the_decimals_of_their_currency() {
        let journal = v1::Journal {
            currencies: vec![
                v1::Currency { code: "CZK".to_owned(), digits: 2 },
                v1::Currency { code: "JPY".to_owned(), digits: 0 },
            ],
            ..v1::Journal::default()
        };
        let balance =
            |account: &str, currency: &str, debits: &str, credits: &str, balance: &str| v1::Balance {
                account: account.to_owned(),
                currency: currency.to_owned(),
                debits: debits.to_owned(),
                credits: credits.to_owned(),
                balance: balance.to_owned(),
            };
        let balances =
            [balance("AB", "CZK", "0", "170738950", "170738950"), balance("AB", "JPY", "1234", "0", "-1234")];
        let text = balances_table(&balances, &journal).expect("amounts");
        assert_eq!(
            text,
            "account  currency  debits       credits       balance\n\
             AB       CZK         0.00  1,707,389.50  1,707,389.50\n\
             AB       JPY        1,234             0        -1,234"
        );
        assert!(balances_table(&[balance("AB", "CZK", "x", "0", "0")], &journal).is_err());
    }
}
