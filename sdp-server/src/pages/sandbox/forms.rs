//! The forms of a sandbox's page. sandbox.js sends them to the API and shows in words what it refuses; without scripts they are not
//! there.

use maud::{Markup, html};
use sdp_core::api::SandboxView;
use sdp_core::lock::{Lock, LockKind};
use sdp_core::name::SandboxName;
use sdp_core::sandbox::Sandbox;

fn problem() -> Markup {
    html! { p class="problem" role="alert" hidden {} }
}

/// Where a service's requests go.
pub(super) fn route(view: &SandboxView, others: &[SandboxName]) -> Markup {
    html! {
        details class="scripted more-of" {
            summary { "Send a service's requests elsewhere" }
            form id="route-form" class="card" autocomplete="off" {
                div class="fields" {
                    p {
                        label for="route-service" { "Requests of" }
                        select id="route-service" name="service" { @for route in &view.routes { option value=(route.service) { (route.service) } } }
                    }
                    p {
                        label for="route-kind" { "Go to" }
                        select id="route-kind" name="kind" {
                            option value="baseline" { "the baseline" }
                            @if !others.is_empty() { option value="borrowed" { "what another sandbox runs" } }
                            option value="external" { "an address outside" }
                            option value="none" { "what was deployed here" }
                        }
                    }
                    p data-for="borrowed" hidden {
                        label for="route-sandbox" { "Sandbox" }
                        select id="route-sandbox" name="sandbox" { @for other in others { option value=(other) { (other) } } }
                    }
                    p data-for="external" hidden {
                        label for="route-address" { "Address and port" }
                        input id="route-address" name="address" placeholder="10.20.3.4:8080" maxlength="60" spellcheck="false" autocapitalize="off";
                    }
                    button class="btn primary" type="submit" { "Send them there" }
                }
                (problem())
            }
        }
    }
}

/// A new lock.
pub(super) fn lock(view: &SandboxView) -> Markup {
    html! {
        details class="scripted more-of" {
            summary { "Lock or freeze" }
            form id="lock-form" class="card" autocomplete="off" {
                div class="fields" {
                    p {
                        label for="lock-service" { "What" }
                        select id="lock-service" name="service" {
                            option value="" { "everything here" }
                            @for route in &view.routes { option value=(route.service) { (route.service) } }
                        }
                    }
                    p {
                        label for="lock-kind" { "How" }
                        select id="lock-kind" name="kind" {
                            option value="lock" { "only I deploy" }
                            option value="freeze" { "nobody deploys" }
                        }
                    }
                    p {
                        label for="lock-reason" { "Why" }
                        input id="lock-reason" name="reason" required maxlength="500" placeholder="demo on Thursday";
                    }
                    p {
                        label for="lock-hours" { "Hours" }
                        input id="lock-hours" name="hours" type="number" min="1" max="8760" placeholder="until unlocked";
                    }
                    button class="btn primary" type="submit" { "Lock" }
                }
                (problem())
            }
        }
    }
}

/// Takes a lock away from whoever holds it.
pub(super) fn steal(lock: &Lock) -> Markup {
    let kind = if lock.kind == LockKind::Freeze { "freeze" } else { "lock" };
    let reason = format!("steal-{}", lock.id);
    html! {
        details class="scripted more-of" {
            summary { "Steal it" }
            form data-steal=(lock.place.environment) data-sandbox=[&lock.place.sandbox] data-service=[&lock.place.service] autocomplete="off" {
                p class="hint" { (lock.owner) " is told, with your reason; the " (kind) " is a lock of yours then." }
                div class="fields" {
                    p { label for=(reason) { "Why" } input id=(reason) name="reason" required maxlength="500"; }
                    button class="btn danger" type="submit" { "Steal" }
                }
                (problem())
            }
        }
    }
}

/// Members, notes and the like.
pub(super) fn settings(sandbox: &Sandbox) -> Markup {
    let members: Vec<_> = sandbox.members.iter().map(ToString::to_string).collect();
    html! {
        details class="scripted more-of" {
            summary { "Change it" }
            form id="settings-form" autocomplete="off" {
                p class="wide" {
                    label for="settings-notes" { "Notes" }
                    textarea id="settings-notes" name="notes" rows="3" maxlength="2000" { (sandbox.notes.as_deref().unwrap_or("")) }
                }
                p class="wide" {
                    label for="settings-members" { "Members, with commas" }
                    input id="settings-members" name="members" value=(members.join(", ")) spellcheck="false" autocapitalize="off";
                }
                div class="fields" {
                    p {
                        label for="settings-shared" { "Who may deploy" }
                        select id="settings-shared" name="shared" {
                            option value="true" selected[sandbox.shared] { "every developer" }
                            option value="false" selected[!sandbox.shared] { "owner and members" }
                        }
                    }
                    p {
                        label for="settings-team" { "Team" }
                        input id="settings-team" name="team" value=[&sandbox.team] maxlength="40" spellcheck="false" autocapitalize="off";
                    }
                    p {
                        label for="settings-lifetime" { "Lifetime in hours" }
                        input id="settings-lifetime" name="lifetime_hours" type="number" min="1" max="8760" value=(sandbox.lifetime_hours);
                    }
                    button class="btn primary" type="submit" { "Save" }
                }
                p class="hint" { "Saving renews it, too." }
                (problem())
            }
        }
    }
}
