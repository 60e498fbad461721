// The theme chosen before, set before anything is painted.
'use strict';
try {
  const theme = localStorage.getItem('outrider.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Storage is forbidden: the system's theme it is.
}
