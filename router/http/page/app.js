// The page: theme, views, what is remembered, and the parts put together.
import { Chat } from './chat.js';
import { Cluster } from './cluster.js';
import { byId, setText } from './dom.js';

function recall(storage, key) {
  try {
    return storage.getItem(`outrider.${key}`);
  } catch {
    return null;  // storage is forbidden
  }
}
function remember(storage, key, value) {
  try {
    if (value === '' || value === null) {
      storage.removeItem(`outrider.${key}`);
    } else {
      storage.setItem(`outrider.${key}`, value);
    }
  } catch {
    // Storage is forbidden: it lasts as long as the page.
  }
}

function startTheme() {
  const names = { system: 'System', light: 'Light', dark: 'Dark' };
  const order = ['system', 'light', 'dark'];
  const root = document.documentElement;
  const show = () => setText(byId('theme-text'), names[root.dataset.theme || 'system']);
  byId('theme').addEventListener('click', () => {
    const next = order[(order.indexOf(root.dataset.theme || 'system') + 1) % order.length];
    if (next === 'system') {
      delete root.dataset.theme;
    } else {
      root.dataset.theme = next;
    }
    remember(localStorage, 'theme', next === 'system' ? '' : next);
    show();
  });
  show();
}

function startViews() {
  const buttons = [...document.querySelectorAll('.views button')];
  for (const button of buttons) {
    button.addEventListener('click', () => {
      document.documentElement.dataset.view = button.dataset.view;
      for (const other of buttons) other.setAttribute('aria-pressed', String(other === button));
      dispatchEvent(new Event('resize'));  // lines of the map are drawn where it is seen
    });
  }
}

// Fields keep what was entered; the key no longer than the tab.
function startSettings() {
  for (const id of ['system', 'temperature', 'max-tokens', 'lookahead', 'seed', 'api-key', 'colours']) {
    const field = byId(id);
    const storage = id === 'api-key' ? sessionStorage : localStorage;
    const isCheck = field.type === 'checkbox';
    const kept = recall(storage, id);
    if (kept !== null) {
      if (isCheck) field.checked = kept === 'true';
      else field.value = kept;
    }
    field.addEventListener('change', () => remember(storage, id, isCheck ? String(field.checked) : field.value));
  }
  const colours = byId('colours');
  const paint = () => document.documentElement.toggleAttribute('data-plain', !colours.checked);
  colours.addEventListener('change', paint);
  paint();
}

startTheme();
startViews();
startSettings();
new Chat();
new Cluster();
