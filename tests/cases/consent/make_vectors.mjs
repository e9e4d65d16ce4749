// Writes tcf.jsonl and gpp.jsonl: consent strings made, and read back, by the IAB's own JavaScript libraries.
// Run it from a directory where the libraries are installed (README.md); everything is drawn from fixed seeds,
// the vendor list is made up here, and nothing is fetched.
import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { cwd, argv } from "node:process";

const require = createRequire(join(cwd(), "resolve-from-here.js"));
const { TCModel, TCString, SegmentEncoder, GVL, PurposeRestriction, Segment } = require("@iabtcf/core");
const { GppModel, Sections } = require("@iabgpp/cmpapi");

const MAX_VENDOR = 1600;
const FIRST_DAY_MS = Date.UTC(2023, 8, 1);
const LAST_DAY_MS = Date.UTC(2026, 11, 31);
const LI_PURPOSES = [2, 7, 8, 9, 10, 11];

function random(seed) {
  // mulberry32
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) / 4294967296;
  };
}

const below = (rng, limit) => Math.floor(rng() * limit);
const pick = (rng, items) => items[below(rng, items.length)];
const upTo = (count) => Array.from({ length: count }, (_, i) => i + 1);
const letters = (rng) => String.fromCharCode(65 + below(rng, 26), 65 + below(rng, 26));
const moment = (rng) => new Date(FIRST_DAY_MS + below(rng, (LAST_DAY_MS - FIRST_DAY_MS) / 100) * 100);

function syntheticList() {
  const item = (id) => ({ id, name: `made-up ${id}`, description: "", illustrations: [] });
  const map = (count) => Object.fromEntries(upTo(count).map((id) => [id, item(id)]));
  const vendors = upTo(MAX_VENDOR).map((id) => [
    id,
    {
      id,
      name: `vendor ${id}`,
      purposes: upTo(11),
      legIntPurposes: LI_PURPOSES,
      flexiblePurposes: upTo(11),
      specialPurposes: [1, 2],
      features: [1],
      specialFeatures: [1, 2],
      policyUrl: "",
      cookieMaxAgeSeconds: 1,
    },
  ]);
  return new GVL({
    gvlSpecificationVersion: 3,
    vendorListVersion: 77,
    tcfPolicyVersion: 4,
    lastUpdated: "2024-01-01T00:00:00Z",
    purposes: map(11),
    specialPurposes: map(3),
    features: map(3),
    specialFeatures: map(2),
    stacks: {},
    dataCategories: {},
    vendors: Object.fromEntries(vendors),
  });
}

// Vendor sets of every shape the two vector encodings meet: bit fields, ranges, single entries, blocks.
function vendorSet(rng) {
  const top = pick(rng, [1, 7, 8, 40, 130, 400, 900, MAX_VENDOR]);
  const chosen = new Set();
  switch (below(rng, 7)) {
    case 0:
      break;
    case 1:
      upTo(top).forEach((id) => chosen.add(id));
      break;
    case 2:
      upTo(1 + below(rng, 6)).forEach(() => chosen.add(1 + below(rng, top)));
      break;
    case 3:
      upTo(top).forEach((id) => rng() < 0.5 && chosen.add(id));
      break;
    case 4:
      upTo(top).forEach((id) => rng() < 0.97 && chosen.add(id));
      break;
    default:
      for (let id = 1 + below(rng, 30); id <= top; id += 1 + below(rng, 200)) {
        for (const last = Math.min(top, id + below(rng, 60)); id <= last; id++) chosen.add(id);
      }
  }
  return [...chosen].sort((a, b) => a - b);
}

const purposeSet = (rng, count, share) => upTo(count).filter(() => rng() < share);

function model(rng, list) {
  const tc = new TCModel(list);
  tc.cmpId = 2 + below(rng, 4000);
  tc.cmpVersion = below(rng, 4096);
  tc.consentScreen = below(rng, 64);
  tc.consentLanguage = letters(rng);
  tc.publisherCountryCode = letters(rng);
  list.tcfPolicyVersion = pick(rng, [2, 3, 4, 4, 5, 5, 6]); // the model answers with its list's
  list.vendorListVersion = 1 + below(rng, 4000);
  tc.isServiceSpecific = rng() < 0.85;
  tc.useNonStandardStacks = rng() < 0.3;
  tc.purposeOneTreatment = rng() < 0.2;
  tc.specialFeatureOptins.set(purposeSet(rng, 12, 0.4));
  tc.purposeConsents.set(purposeSet(rng, 24, pick(rng, [0, 0.5, 0.9, 1])));
  tc.purposeLegitimateInterests.set(purposeSet(rng, 24, pick(rng, [0, 0.5, 0.9, 1])));
  tc.vendorConsents.set(vendorSet(rng));
  tc.vendorLegitimateInterests.set(vendorSet(rng));
  tc.publisherRestrictions.gvl = list;
  if (rng() < 0.6) {
    upTo(1 + below(rng, 4)).forEach(() => {
      const type = below(rng, 3);
      const purpose = type === 0 ? 1 + below(rng, 11) : pick(rng, LI_PURPOSES);
      const restriction = new PurposeRestriction(purpose, type);
      if (rng() < 0.15) tc.publisherRestrictions.restrictPurposeToLegalBasis(restriction);
      else vendorSet(rng).slice(0, 60).forEach((id) => tc.publisherRestrictions.add(id, restriction));
    });
  }
  tc.vendorsDisclosed.set(vendorSet(rng));
  tc.vendorsAllowed.set(vendorSet(rng));
  tc.publisherConsents.set(purposeSet(rng, 24, 0.5));
  tc.publisherLegitimateInterests.set(purposeSet(rng, 24, 0.5));
  const custom = pick(rng, [0, 0, 1, 5, 63]);
  tc.numCustomPurposes = custom;
  tc.publisherCustomConsents.set(purposeSet(rng, custom, 0.5));
  tc.publisherCustomLegitimateInterests.set(purposeSet(rng, custom, 0.5));
  tc.numCustomPurposes = custom; // setting members lowers it to the highest of them
  // Setting any field moves the dates to the present day, so they come last.
  tc.created = moment(rng);
  tc.lastUpdated = moment(rng);
  return tc;
}

const ids = (vector) => [...vector.values()].sort((a, b) => a - b);

function oracle(text, asked) {
  let tc;
  try {
    tc = TCString.decode(text);
  } catch {
    return null;
  }
  const types = text.split(".").map((part) => "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef".indexOf(part[0]) >> 3);
  const has = (type) => types.slice(1).includes(type);
  return {
    created_ms: tc.created.getTime(),
    updated_ms: tc.lastUpdated.getTime(),
    cmp: [tc.cmpId, tc.cmpVersion, tc.consentScreen],
    language: tc.consentLanguage,
    list: tc.vendorListVersion,
    policy: tc.policyVersion,
    specific: tc.isServiceSpecific,
    texts: tc.useNonStandardStacks,
    features: ids(tc.specialFeatureOptins),
    consent: ids(tc.purposeConsents),
    li: ids(tc.purposeLegitimateInterests),
    p1t: tc.purposeOneTreatment,
    cc: tc.publisherCountryCode,
    publisher: has(3)
      ? [
          ids(tc.publisherConsents),
          ids(tc.publisherLegitimateInterests),
          tc.numCustomPurposes,
          ids(tc.publisherCustomConsents),
          ids(tc.publisherCustomLegitimateInterests),
        ]
      : null,
    vendors: asked.map((id) => [
      id,
      tc.vendorConsents.has(id),
      tc.vendorLegitimateInterests.has(id),
      has(1) ? tc.vendorsDisclosed.has(id) : null,
      has(2) ? tc.vendorsAllowed.has(id) : null,
      tc.publisherRestrictions.getRestrictions(id).map((r) => [r.purposeId, r.restrictionType]),
    ]),
  };
}

function asked(rng, tc) {
  const known = new Set([1, 1 + below(rng, MAX_VENDOR), 65535]);
  for (const vector of [tc.vendorConsents, tc.vendorLegitimateInterests, tc.vendorsDisclosed, tc.vendorsAllowed]) {
    if (vector.maxId) [vector.maxId, vector.maxId + 1].forEach((id) => known.add(id));
  }
  const restricted = tc.publisherRestrictions.getVendors();
  if (restricted.length) known.add(pick(rng, restricted));
  return [...known].sort((a, b) => a - b);
}

function tcStrings(count) {
  const list = syntheticList();
  const optional = [Segment.VENDORS_DISCLOSED, Segment.VENDORS_ALLOWED, Segment.PUBLISHER_TC];
  const cases = [];
  for (let seed = 1; seed <= count; seed++) {
    const rng = random(seed);
    const tc = model(rng, list);
    const segments = [Segment.CORE, ...optional.filter(() => rng() < 0.5)];
    if (rng() < 0.3) segments.splice(1, segments.length, ...segments.slice(1).reverse());
    const text = segments.map((segment) => SegmentEncoder.encode(tc, segment)).join(".");
    const vendors = asked(rng, tc);
    cases.push({ seed, text, want: oracle(text, vendors) });
    if (seed % 2 === 0) {
      const cut = text.slice(0, 1 + below(rng, text.length - 1));
      cases.push({ seed, cut: true, text: cut, want: oracle(cut, vendors) });
    }
  }
  return cases;
}

const OPT_OUTS = ["SaleOptOut", "SharingOptOut", "TargetedAdvertisingOptOut"];
const LISTS = ["SensitiveDataProcessing", "KnownChildSensitiveDataConsents"];

function usFields(section) {
  const want = {};
  for (const name of OPT_OUTS) if (name in section) want[name] = section[name];
  for (const name of LISTS) if (name in section) want[name] = [section[name]].flat();
  want.Gpc = section.GpcSegmentIncluded === false || !("Gpc" in section) ? null : section.Gpc;
  want.Version = section.Version ?? section.MspaVersion;
  return want;
}

function gppOracle(text) {
  try {
    const gpp = new GppModel(text);
    const parts = text.split("~");
    const sections = {};
    gpp.getSectionIds().forEach((id, place) => {
      const name = Sections.SECTION_ID_NAME_MAP.get(id);
      const section = gpp.getSection(name);
      const raw = parts[place + 1];
      if (id === 5) sections[id] = { raw };
      else if (id === 2) {
        const vectors = [section.VendorConsents, section.VendorLegitimateInterests, section.VendorsDisclosed];
        const ask = [1, 2, 7, 8, 130, 401, ...vectors.map((ids) => ids.at(-1) ?? 3)];
        sections[id] = { raw, vendors: ask.map((vendor) => [vendor, ...vectors.map((ids) => ids.includes(vendor))]) };
      }
      else if (id === 6) sections[id] = { raw, sale: section.OptOutSale };
      else {
        const want = usFields(section);
        // For a segment that was not sent the library answers its defaults; the string itself tells them apart.
        if (!raw.includes(".")) {
          want.Gpc = null;
          if (id >= 25) want.SensitiveDataProcessing = [];
        }
        sections[id] = want;
      }
    });
    return sections;
  } catch {
    return null;
  }
}

function fillUs(rng, gpp, id) {
  const name = Sections.SECTION_ID_NAME_MAP.get(id);
  const blank = new GppModel();
  blank.setFieldValue(name, id >= 24 ? "MspaVersion" : "Version", 1);
  const section = blank.getSection(name);
  const skew = pick(rng, [[0, 2], [0, 1, 2], [1, 2], [2], [0]]);
  for (const [field, value] of Object.entries(section)) {
    if (field === "Version" || field === "MspaVersion" || field.endsWith("SegmentType")) continue;
    if (field === "GpcSegmentIncluded" || field === "SensitiveDataConsentSegmentIncluded") continue;
    let drawn;
    if (field === "Gpc") drawn = rng() < 0.3;
    else if (field === "MspaCoveredTransaction") drawn = 1 + below(rng, 2);
    else if (Array.isArray(value)) drawn = value.map(() => pick(rng, skew));
    else drawn = pick(rng, skew);
    gpp.setFieldValue(name, field, drawn);
  }
  if (id === 7) {
    const version = 1 + below(rng, 2);
    if (version === 1) {
      const lists = gpp.getSection(name);
      gpp.setFieldValue(name, "SensitiveDataProcessing", lists.SensitiveDataProcessing.slice(0, 12).concat([0, 0, 0, 0]));
      gpp.setFieldValue(name, "KnownChildSensitiveDataConsents", lists.KnownChildSensitiveDataConsents.slice(0, 2).concat([0]));
    }
    gpp.setFieldValue(name, "Version", version);
  }
  const optional = [9, 11, 13].includes(id) ? null : id >= 25 ? "SensitiveDataConsentSegmentIncluded" : "GpcSegmentIncluded";
  if (optional && rng() < 0.5) gpp.setFieldValue(name, optional, false);
}

function fill(rng, gpp, id) {
  if (id === 6) {
    for (const field of ["Notice", "OptOutSale", "LspaCovered"]) gpp.setFieldValue("uspv1", field, pick(rng, ["Y", "N", "-"]));
  } else if (id === 2) {
    gpp.setFieldValue("tcfeuv2", "PurposeConsents", upTo(24).map(() => rng() < 0.7));
    gpp.setFieldValue("tcfeuv2", "VendorConsents", vendorSet(rng));
    gpp.setFieldValue("tcfeuv2", "VendorLegitimateInterests", vendorSet(rng));
    gpp.setFieldValue("tcfeuv2", "VendorsDisclosed", vendorSet(rng));
    gpp.setFieldValue("tcfeuv2", "Created", moment(rng)); // last: any other field resets it to now
  } else if (id === 5) {
    gpp.setFieldValue("tcfcav1", "CmpId", below(rng, 4096));
    gpp.setFieldValue("tcfcav1", "Created", moment(rng));
    gpp.setFieldValue("tcfcav1", "LastUpdated", moment(rng));
  } else fillUs(rng, gpp, id);
}

function gppStrings(count) {
  const all = [...Sections.SECTION_ID_NAME_MAP.keys()];
  const us = all.filter((id) => id >= 7);
  const cases = [];
  for (let seed = 1; seed <= count; seed++) {
    const rng = random(1_000_000 + seed);
    // Every US section alone in turn, then mixtures of all of them.
    const chosen = seed % 3 ? [us[Math.floor((seed * 2) / 3) % us.length]] : all.filter(() => rng() < pick(rng, [0.1, 0.4]));
    const gpp = new GppModel();
    chosen.forEach((id) => fill(rng, gpp, id));
    const text = gpp.encode();
    cases.push({ seed, text, want: gppOracle(text) });
    if (seed % 3 === 1) {
      const cut = text.slice(0, 1 + below(rng, text.length - 1));
      cases.push({ seed, cut: true, text: cut, want: gppOracle(cut) });
    }
  }
  return cases;
}

const folder = argv[2] ?? ".";
for (const [file, cases] of Object.entries({ "tcf.jsonl": tcStrings(300), "gpp.jsonl": gppStrings(330) })) {
  writeFileSync(join(folder, file), cases.map((each) => JSON.stringify(each) + "\n").join(""));
  const unusable = cases.filter((each) => each.want === null).length;
  console.log(`${file}: ${cases.length} cases, ${unusable} of them unusable`);
}
