//! Test kit: scratch engines, reference engines, leftover sweep.
