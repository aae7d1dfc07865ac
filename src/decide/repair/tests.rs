//! Each rule a test, and what holds for every story.

mod begin;
mod breaker;
mod decision;
mod due;
mod fixtures;
mod jobs;
mod late;
mod model;
mod simulation;
mod ungate;
mod view;
mod world;
