//! Progress on the screen: a bar where a terminal is, plain lines where not.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use windlass_core::name::Name;
use windlass_core::size;
use windlass_engine::progress::{Event, Progress};

use crate::printer::Printer;

/// Plain lines come at most this often.
const EVERY: Duration = Duration::from_secs(10);

/// Watches a task and shows how it goes.
pub(crate) struct Watch {
    printer: Printer,
    shown: Mutex<Shown>,
}

struct Shown {
    bar: Option<ProgressBar>,
    step: String,
    place: Option<String>,
    bytes: u64,
    total: Option<u64>,
    began: Instant,
    said: Instant,
}

impl Watch {
    /// Watches for the one who reads what this printer prints.
    pub(crate) fn new(printer: &Printer) -> Self {
        let now = Instant::now();
        let shown = Shown { bar: None, step: String::new(), place: None, bytes: 0, total: None, began: now, said: now };
        Self { printer: printer.clone(), shown: Mutex::new(shown) }
    }

    fn begin(&self, component: &Name, text: &str, total: Option<u64>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = shown.bar.take() {
            bar.finish_and_clear();
        }
        let now = Instant::now();
        let step = format!("{component}: {text}");
        *shown = Shown { bar: None, step, place: None, bytes: 0, total, began: now, said: now };
        if self.printer.shows_bars() {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            bar.set_style(style(total.is_some()));
            bar.set_message(shown.step.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
            shown.bar = Some(bar);
        }
    }

    fn at(&self, place: &str) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.place = Some(place.to_owned());
        if let Some(bar) = &shown.bar {
            bar.set_message(shown.title());
        }
    }

    fn moved(&self, more: u64) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.bytes += more;
        if let Some(bar) = &shown.bar {
            bar.inc(more);
        } else if shown.said.elapsed() >= EVERY {
            shown.said = Instant::now();
            self.printer.note(&shown.line());
        }
    }

    fn over(&self, say: impl FnOnce(&Printer)) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = shown.bar.take() {
            bar.finish_and_clear();
        }
        say(&self.printer);
    }
}

impl Shown {
    fn title(&self) -> String {
        match &self.place {
            Some(place) => format!("{}, at {place}", self.step),
            None => self.step.clone(),
        }
    }

    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate to read"
        )]
        let rate = (self.bytes as f64 / seconds) as u64;
        let ahead = self.total.filter(|total| *total > 0).map_or(String::new(), |total| {
            let (bytes, left) = (self.bytes.min(total), total.saturating_sub(self.bytes));
            let left = left.checked_div(rate).map_or(String::new(), |seconds| format!(", {seconds} s left"));
            format!(", {}%{left}", bytes * 100 / total)
        });
        format!("{}: {}, {}/s{ahead}", self.title(), size::display(self.bytes), size::display(rate))
    }
}

impl Progress for Watch {
    fn event(&self, event: Event<'_>) {
        if self.printer.is_quiet() {
            if let Event::Warning { text } = event {
                self.printer.warning(text);
            }
            return;
        }
        match event {
            Event::Step { component, text, total } => self.begin(component, text, total),
            Event::Bytes { more, .. } => self.moved(more),
            Event::At { place, .. } => self.at(place),
            Event::Done { component, text } => self.over(|printer| printer.note(&format!("{component}: {text}"))),
            Event::Warning { text } => self.over(|printer| printer.warning(text)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over(|_| ());
    }
}

fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "{msg} [{bar:28}] {bytes}/{total_bytes} {percent}% {bytes_per_sec} {eta} left"
    } else {
        "{spinner} {msg} {bytes} {bytes_per_sec}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
