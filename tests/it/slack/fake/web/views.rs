//! `views.*`: forms and homes.

use serde_json::{Value, json};

use super::{Answer, Arguments, Refusal};
use crate::slack::fake::model::TRIGGER_LIVES;
use crate::slack::fake::{World, blocks, effects};

/// So many forms lie on top of each other.
const MOST: usize = 3;

fn given(world: &mut World, arguments: &Arguments, kind: &str) -> Answer {
    let mut view = arguments.json("view")?.ok_or("invalid_arguments")?;
    let mut details = blocks::check_view(&view);
    if view["type"] != kind {
        details.push(format!("[ERROR] must be a {kind} [json-pointer:/view/type]"));
    }
    if !details.is_empty() {
        return Err(Refusal { error: "invalid_arguments".to_owned(), details });
    }
    let blocks = view["blocks"].as_array().cloned().unwrap_or_default();
    view["blocks"] = Value::Array(world.model.named(blocks));
    Ok(view)
}

/// Whose trigger it is; it is used up by this.
fn triggered(world: &mut World, arguments: &Arguments) -> Result<String, Refusal> {
    let now = world.model.now();
    let trigger = world.model.triggers.get_mut(arguments.need("trigger_id")?).ok_or("invalid_trigger_id")?;
    if now > trigger.made + TRIGGER_LIVES {
        Err("expired_trigger_id".into())
    } else if std::mem::replace(&mut trigger.used, true) {
        Err("exchanged_trigger_id".into())
    } else {
        Ok(trigger.user.clone())
    }
}

fn is_new(world: &World, view: &Value) -> Result<(), Refusal> {
    let id = view["external_id"].as_str().filter(|id| !id.is_empty());
    if world.model.views.iter().any(|known| Some(known.external_id()) == id) {
        return Err("duplicate_external_id".into());
    }
    Ok(())
}

pub(super) fn open(world: &mut World, arguments: &Arguments) -> Answer {
    let view = given(world, arguments, "modal")?;
    is_new(world, &view)?;
    let user = triggered(world, arguments)?;
    let shown = effects::show_view(world, &user, view, None);
    Ok(json!({ "view": shown }))
}

pub(super) fn push(world: &mut World, arguments: &Arguments) -> Answer {
    let view = given(world, arguments, "modal")?;
    is_new(world, &view)?;
    let user = triggered(world, arguments)?;
    let mut open = world.model.views.iter().filter(|known| known.open && known.user == user);
    let count = open.clone().count();
    let top = open.next_back().map(|top| top.id.clone()).ok_or("not_found")?;
    if count >= MOST {
        return Err("push_limit_reached".into());
    }
    let shown = effects::show_view(world, &user, view, Some(top));
    Ok(json!({ "view": shown }))
}

pub(super) fn update(world: &mut World, arguments: &Arguments) -> Answer {
    let view = given(world, arguments, "modal")?;
    let (id, external) = (arguments.text("view_id"), arguments.text("external_id"));
    if id.is_none() && external.is_none() {
        arguments.need("view_id")?;
    }
    let is = |known: &super::super::View| match id {
        Some(id) => known.id == id,
        None => Some(known.external_id()) == external,
    };
    let at = world.model.views.iter().position(|known| known.open && is(known)).ok_or("not_found")?;
    if arguments.text("hash").is_some_and(|hash| hash != world.model.views[at].hash) {
        return Err("hash_conflict".into());
    }
    let hash = world.model.next("1700000000.hash");
    let known = &mut world.model.views[at];
    known.show(view, hash);
    Ok(json!({ "view": known.payload() }))
}

pub(super) fn publish(world: &mut World, arguments: &Arguments) -> Answer {
    let view = given(world, arguments, "home")?;
    let user = arguments.need("user_id")?.to_owned();
    if !world.model.users.contains_key(&user) {
        return Err("user_not_found".into());
    }
    let hash = arguments.text("hash");
    if let (Some(hash), Some(home)) = (hash, world.model.homes.get(&user))
        && hash != home.hash
    {
        return Err("hash_conflict".into());
    }
    let shown = effects::show_home(world, &user, view);
    Ok(json!({ "view": shown }))
}
