// What the device keeps of each collection, parents before children: the order in which RxDB's collections are synchronised.

const text = (...names) => Object.fromEntries(names.map((name) => [name, "string"]));
const numbers = (...names) => Object.fromEntries(names.map((name) => [name, "number"]));
const lists = (...names) => Object.fromEntries(names.map((name) => [name, "array"]));

const KEPT = { version: "number", ...text("patient_id", "episode_id"), created_at: "moment", updated_at: "moment" };

const OWN = {
  patient: { ...numbers("birth_year"), ...text("sex", "locale", "time_zone", "external_ref") },
  episode: text("protocol_code", "phase", "status"),
  relationship: {
    ...text("label", "relation_type", "status", "expects_of_other", "change_wanted", "safety", "source"),
    ...numbers("closeness_now", "closeness_before_onset", "closeness_wished", "confiding", "conflict_level"),
    ...lists("contact_modes", "patterns", "mourning_signs"),
  },
  life_event: { ...text("type", "happened_on", "person_label", "note", "linked_to_onset", "relationship_id"), imminent: "boolean" },
  problem: { ...text("text", "area"), ...numbers("severity", "readiness"), ...lists("relationship_ids") },
  goal: { ...text("text", "term", "area", "met_on"), ...numbers("attainment") },
  session: {
    ...text("starts_at", "status", "mode", "attendance", "phase", "summary"),
    ...numbers("minutes", "number", "mood"),
    ...lists("focus_areas", "techniques", "strategies", "flags"),
  },
  assessment: { ...text("instrument", "answered_at", "respondent", "mode", "locale", "band"), ...numbers("total"), answers: "object" },
  homework: text("task", "agreed_on", "due_on", "status", "outcome"),
  session_note: text("session_id", "text", "signed_at"),
  sync_conflict: text("entity", "entity_id", "reason", "status"),
};

export const ENTITIES = Object.fromEntries(Object.entries(OWN).map(([name, own]) => [name, { ...KEPT, ...own }]));
