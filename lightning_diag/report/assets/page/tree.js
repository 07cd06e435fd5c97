"use strict";

/** The model as a tree of layers, in its order; each metric hangs its places on it. */

/** Return the tree of a map: layers with a number of their own, and what they are in. */
function treeOf(map) {
  const root = { name: "", path: "", children: [], places: [], layer: null };
  const known = new Map([["", root]]);
  const node = (path) => {
    if (known.has(path)) return known.get(path);
    const cut = path.lastIndexOf(".");
    const parent = node(cut < 0 ? "" : path.slice(0, cut));
    const made = { name: path.slice(cut + 1), path, children: [], places: [], parent, layer: null };
    parent.children.push(made);
    known.set(path, made);
    return made;
  };
  const used = new Set(map.layer.filter((i) => run.layers[i]));
  // Layers come in the model's order, also those of which this metric knows only some.
  run.layers.forEach((layer, i) => {
    if (used.has(i)) node(layer.path).layer = layer;
  });
  map.places.forEach((place, i) => {
    const layer = run.layers[map.layer[i]];
    if (layer) known.get(layer.path).places.push(i);
    else root.children.push({ name: place, path: place, children: [], places: [i], parent: root, layer: null });
  });
  if (root.places.length) root.children.unshift({ ...root, name: "(model)", children: [], parent: root });
  root.children.forEach((child) => shorten(child));
  spread(root, map);
  return root.children;
}

/** Join chains of layers that hold nothing but the next one. */
function shorten(node) {
  while (node.children.length === 1 && !node.places.length) {
    const [only] = node.children;
    node.name = `${node.name}.${only.name}`;
    Object.assign(node, { path: only.path, children: only.children, places: only.places, layer: only.layer });
    node.children.forEach((child) => { child.parent = node; });
  }
  node.children.forEach(shorten);
}

/** Give places of a layer with several, or with layers in it, rows of their own; gather all. */
function spread(node, map) {
  node.children.forEach((child) => spread(child, map));
  const own = node.places ?? [];
  if (node.parent && (own.length > 1 || (own.length && node.children.length))) {
    const begin = (place) => ["", ".", "/"].map((sign) => node.path + sign).find((each) =>
      each !== node.path && place.startsWith(each));
    node.children.unshift(...own.map((i) => ({
      name: map.places[i].slice((begin(map.places[i]) ?? "").length),
      path: map.places[i],
      children: [],
      places: [i],
      all: [i],
      parent: node,
      layer: node.layer,
    })));
  }
  const below = node.children.flatMap((child) => child.all);
  node.all = [...new Set([...own, ...below])].sort((a, b) => a - b);
}

/** Return the layers that concern what was found, and what they are in. */
function namedByFindings(nodes) {
  const found = new Set();
  const walk = (node) => {
    const below = node.children.map(walk).some(Boolean);
    const own = !node.children.length && concerning(node.path).length > 0;
    if (below || own) found.add(node.path);
    return below || own;
  };
  nodes.forEach(walk);
  return found;
}

/** Rows that are open at first: as many levels as fit without scrolling far. */
const COMFORTABLE = 44;
/** Rows that are too few to see anything, and what may then be scrolled through. */
const SCANT = 12;
const BEARABLE = 150;

/** Return the paths of the groups that are open at first. */
function openAtFirst(nodes) {
  const open = new Set();
  let level = nodes;
  let rows = nodes.length;
  while (level.length) {
    const groups = level.filter((node) => node.children.length);
    const more = groups.reduce((sum, node) => sum + node.children.length, 0);
    const room = rows < 3 ? Infinity : rows < SCANT ? BEARABLE : COMFORTABLE;
    if (!groups.length || rows + more > room) break;
    groups.forEach((node) => open.add(node.path));
    rows += more;
    level = groups.flatMap((node) => node.children);
  }
  return open;
}

/** Return the rows that are shown: of a filtered tree all that match, else those in open groups. */
function rowsOf(nodes, state) {
  const rows = [];
  const wanted = state.filter.trim().toLowerCase();
  const matches = (node) => (!wanted || node.path.toLowerCase().includes(wanted))
    && (!state.onlyFound || concerning(node.path).length > 0);
  const any = (node) => matches(node) || node.children.some(any);
  const filtering = wanted || state.onlyFound;
  const walk = (node, depth) => {
    if (filtering && !any(node)) return;
    const open = node.children.length > 0 && (filtering
      ? node.children.some(any) && !state.closed.has(node.path)
      : state.open.has(node.path));
    rows.push({ node, depth, open });
    if (open) node.children.forEach((child) => walk(child, depth + 1));
  };
  nodes.forEach((node) => walk(node, 1));
  return rows;
}

/** Return the least and the largest numbers of a row: of all that is in it, at each step. */
function valuesOf(map, node) {
  if (node.all.length === 1) return [map.values[node.all[0]], map.values[node.all[0]]];
  if (!node.pooled) {
    const join = (better) => map.steps.map((_, k) => node.all
      .map((i) => map.values[i][k])
      .reduce((a, b) => (a === null || (b !== null && better(b, a)) ? b : a), null));
    // What is not finite comes first, to either side.
    const worse = (compare) => (b, a) => Number.isFinite(a) && (!Number.isFinite(b) || compare(b, a));
    node.pooled = [join(worse((b, a) => b < a)), join(worse((b, a) => b > a))];
  }
  return node.pooled;
}

/** Write the number of a row at a step, or from which to which it has. */
function rangeWords(map, node, k, write) {
  const [low, high] = valuesOf(map, node).map((line) => write(line[k]));
  return low === high ? high : `${low} – ${high}`;
}
