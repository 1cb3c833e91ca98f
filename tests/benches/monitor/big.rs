//! Large messages, and the memory that `km` takes for them.

use std::sync::Arc;

use km_tests::traffic;

use crate::Extent;
use crate::stream::{once, table};
use crate::way::Ways;

const MESSAGES: usize = 10;
const SIZE: usize = 50 << 20;

pub(crate) fn measure(ways: &Ways, extent: &Extent) {
    let message: Arc<[u8]> = traffic::call(1, SIZE).into();
    let [none, one, _] = &ways.km;
    let title = format!("{MESSAGES} messages of 50 MiB, median of {}", extent.rounds);
    table(&title, &[&ways.direct, &ways.pump, none, one], extent.rounds, &|way| {
        once(way, &message, MESSAGES * SIZE, 64 << 10)
    });
}
