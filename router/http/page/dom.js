// Elements, and words for numbers.

// el('p', {class: 'note', 'aria-label': 'x'}, 'text', child)
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

// Changes the document only if there is something to change: what reads it aloud is left in peace.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export function percent(ratio) {
  return ratio === null || !Number.isFinite(ratio) ? '–' : `${Math.round(100 * ratio)} %`;
}
// Three figures at most.
export function figure(number) {
  if (number === null || !Number.isFinite(number)) return '–';
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)} M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(0)} k`;
  return String(Number(number.toFixed(number >= 100 ? 0 : number >= 10 ? 1 : 2)));
}
export function milliseconds(ms) {
  if (ms === null || !Number.isFinite(ms)) return '–';
  return ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${figure(ms)} ms`;
}
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

let saying = null;
// Read aloud when there is a pause.
export function say(text) {
  saying = saying || byId('say');
  saying.textContent = text;
}
