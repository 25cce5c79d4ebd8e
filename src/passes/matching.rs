//! What passes ask about values: numbers, broadcasts, scalar calls.
