//! How many tests passed and failed.

/// Counts of tests.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
    /// Those that did not end well, whatever they counted: a program may die.
    pub(super) failed_programs: Vec<String>,
}

impl Sums {
    /// Counts something that is no program of tests.
    pub(super) fn count(&mut self, name: &str, passed: bool) {
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        *(if passed { &mut self.passed } else { &mut self.failed }) += 1;
    }

    /// Whether something ran, and nothing failed.
    pub(super) fn are_good(&self) -> bool {
        self.failed == 0 && self.failed_programs.is_empty() && self.passed > 0
    }

    /// `test result: ok. 3 passed; 0 failed; 0 ignored; …`
    pub(super) fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = counts.split_whitespace().collect();
        for pair in words.windows(2) {
            let [number, what] = pair else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what.trim_end_matches(';') {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}
