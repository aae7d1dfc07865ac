//! Each rule a test, and what holds for every story.

mod breaker;
mod cast;
mod decision;
mod due;
mod jobs;
mod scene;
mod stories;
mod ungate;
mod view;
mod world;
