//! Runs the transcripts in `testdata/`: stories of a gate, told as commands and what each of them answers.
//!
//! A file is a list of blocks: comment lines (`#`), one command line, `----`, the expected answer up to an empty line.
//!
//! | command | answer |
//! |---|---|
//! | `voters 1:a:east 2:b:east ...` | `ok` |
//! | `lead term=T own-from=I` | a leader of term T whose own entries begin at index I; every held reply leaves as `unknown` |
//! | `ack term=T node=N index=I` | what the gate lets go, and the watermarks |
//! | `hold class=C index=I as=NAME` | the same |
//! | `demote` | every held reply as `unknown` |
//! | `wipe node=N` | forgets the node's acknowledgements |
//! | `reachable class=C nodes=1,2,..` | `yes` or what is missing |
//! | `holders index=I` | zones |
//! | `degrade since=I` | a regime record at this index says that `geo` is acknowledged as `city` |
//! | `restore` | a regime record says that it waits for every site again |
//! | `picture` | describe |

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::parse_voters;
use crate::placement::{Acks, Class, Placed, ReplyQueue, Voter, Watermarks, describe, holders, reachable};

#[derive(Default)]
struct Gate {
    voters: Vec<Voter>,
    acks: Option<Acks>,
    own_from: u64,
    queue: ReplyQueue<String>,
    /// Survives a leader change.
    placed: Placed,
}

/// `name=value` words of a command.
struct Arguments<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Arguments<'a> {
    fn parse(words: &'a str) -> Self {
        Self(words.split_whitespace().filter_map(|word| word.split_once('=')).collect())
    }

    fn text(&self, name: &str) -> &'a str {
        self.0.get(name).unwrap_or_else(|| panic!("argument {name} is missing"))
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap()
    }

    fn class(&self) -> Class {
        let word = self.text("class");
        Class::ALL.into_iter().find(|class| class.as_str() == word).unwrap()
    }
}

impl Gate {
    fn run(&mut self, line: &str) -> String {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let arguments = Arguments::parse(rest);
        match command {
            "voters" => {
                self.voters = parse_voters(rest);
                "ok\n".into()
            }
            "lead" => {
                let floor = self.placed.known;
                self.acks = Some(Acks::new(arguments.number("term"), floor.city, floor.geo));
                self.own_from = arguments.number("own-from");
                self.drained() + &self.advance()
            }
            "ack" => {
                let (term, node, index) =
                    (arguments.number("term"), arguments.number("node"), arguments.number("index"));
                if let Some(acks) = &mut self.acks {
                    acks.acknowledge(term, node, index);
                }
                self.advance()
            }
            "hold" => {
                self.queue.push(arguments.number("index"), arguments.class(), arguments.text("as").into());
                self.advance()
            }
            "demote" => {
                self.acks = None;
                let drained = self.drained();
                if drained.is_empty() { "nothing held\n".into() } else { drained }
            }
            "degrade" => {
                // The leader has applied whatever it holds replies of.
                self.placed.follow_regime(Some(arguments.number("since")), u64::MAX);
                self.advance()
            }
            "restore" => {
                self.placed.follow_regime(None, u64::MAX);
                self.advance()
            }
            "wipe" => {
                if let Some(acks) = &mut self.acks {
                    acks.forget(arguments.number("node"));
                }
                self.advance()
            }
            "reachable" => {
                let nodes = arguments.text("nodes").split(',').filter_map(|node| node.parse().ok()).collect();
                match reachable(arguments.class(), &self.voters, &nodes) {
                    Ok(()) => "yes\n".into(),
                    Err(missing) => missing + "\n",
                }
            }
            "holders" => {
                let acks = self.acks.as_ref().expect("nobody leads");
                holders(&self.voters, acks.by_node(), arguments.number("index")).join(" ") + "\n"
            }
            "picture" => describe(&self.voters, self.acks.as_ref().expect("nobody leads").by_node()),
            other => panic!("{other} is no command"),
        }
    }

    fn drained(&mut self) -> String {
        self.queue.drain().into_iter().fold(String::new(), |text, reply| text + &format!("unknown {reply}\n"))
    }

    fn advance(&mut self) -> String {
        let Some(acks) = &mut self.acks else { return "nobody leads\n".into() };
        let own_from = self.own_from;
        self.placed.learn(Watermarks {
            city: acks.watermark(Class::City, &self.voters, |index| index >= own_from),
            geo: acks.watermark(Class::Geo, &self.voters, |index| index >= own_from),
        });
        let Placed { known, shown, .. } = self.placed;
        let mut text = String::new();
        for class in Class::ALL {
            for (index, reply) in self.queue.release(class, shown.of(class)) {
                let degraded = if index > known.of(class) { ", degraded" } else { "" };
                writeln!(text, "reply {reply} ({class}, {index}{degraded})").unwrap();
            }
        }
        let shows = if shown.geo > known.geo { format!(", shown {}", shown.geo) } else { String::new() };
        text + &format!("city {} geo {}{shows}\n", known.city, known.geo)
    }
}

fn run(name: &str, transcript: &str) {
    let mut gate = Gate::default();
    let mut blocks = 0;
    let mut lines = transcript.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let answer = gate.run(line);
        let (_, rule) = lines.next().unwrap_or_else(|| panic!("{name}:{}: no answer", at + 1));
        assert_eq!(rule, "----", "{name}:{}", at + 2);
        let mut expected = String::new();
        for (_, line) in lines.by_ref().take_while(|(_, line)| !line.is_empty()) {
            expected += line;
            expected += "\n";
        }
        assert_eq!(answer, expected, "{name}:{}: {line}", at + 1);
        blocks += 1;
    }
    assert!(blocks > 3, "{name} tells nothing");
}

macro_rules! transcripts {
    ($($test:ident $file:literal;)+) => {
        $(#[test]
        fn $test() {
            run($file, include_str!(concat!("../testdata/", $file)));
        })+
    };
}

transcripts! {
    city_in_the_default_topology "city.txt";
    geo_waits_for_the_remote_site "geo.txt";
    leader_changes "leader_change.txt";
    old_terms_entries "old_term.txt";
    heavy_zone "heavy_zone.txt";
    geo_does_without_the_remote_site_for_a_while "degraded.txt";
}
