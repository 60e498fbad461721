// What is wrong with the page as it stands, as a list of sentences: names, structure, contrast, sizes, overflow. After
// WCAG 2.2 AA, as far as a program can see it. Run in the page.
(() => {
  const problems = [];
  const describe = (element) => {
    const id = element.id ? `#${element.id}` : '';
    const classes = typeof element.className === 'string' && element.className ? `.${element.className.split(' ').join('.')}` : '';
    return `${element.tagName.toLowerCase()}${id}${classes} "${(element.textContent || '').trim().slice(0, 30)}"`;
  };
  const isSeen = (element) => {
    const box = element.getBoundingClientRect();
    return box.width > 1 && box.height > 1 && element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  };

  // --- Names and structure.
  const nameOf = (element) => {
    const label = element.getAttribute('aria-label');
    if (label) return label.trim();
    const by = element.getAttribute('aria-labelledby');
    if (by) return by.split(' ').map((id) => (document.getElementById(id) || {}).textContent || '').join(' ').trim();
    if (element.labels && element.labels.length > 0) return [...element.labels].map((l) => l.textContent).join(' ').trim();
    if (element.matches('button, a, summary')) return element.textContent.trim();
    return (element.getAttribute('title') || '').trim();
  };
  for (const element of document.querySelectorAll('button, a[href], input, select, textarea, summary, [role], section, nav')) {
    if (!isSeen(element) || element.getAttribute('aria-hidden') === 'true') continue;
    if (['status', 'alert', 'group', null].includes(element.getAttribute('role')) && !element.matches('button, a, input, select, textarea, summary, section, nav')) continue;
    if (nameOf(element) === '') problems.push(`no name: ${describe(element)}`);
  }
  for (const image of document.querySelectorAll('img:not([alt]), svg:not([aria-hidden="true"]):not([aria-label])')) {
    problems.push(`no text instead of a picture: ${describe(image)}`);
  }
  const ids = new Set();
  for (const { id } of document.querySelectorAll('[id]')) {
    if (ids.has(id)) problems.push(`id twice: ${id}`);
    ids.add(id);
  }
  for (const element of document.querySelectorAll('[aria-labelledby], [aria-describedby], label[for]')) {
    for (const name of ['aria-labelledby', 'aria-describedby', 'for']) {
      for (const id of (element.getAttribute(name) || '').split(' ').filter(Boolean)) {
        if (!ids.has(id)) problems.push(`${describe(element)}: ${name} names ${id}, which is not there`);
      }
    }
  }
  if (!document.documentElement.lang) problems.push('the page does not say its language');
  if (document.title.trim() === '') problems.push('the page has no title');
  if (document.querySelectorAll('main').length !== 1) problems.push('there is not one main');
  if (document.querySelectorAll('h1').length !== 1) problems.push('there is not one h1');
  let level = 0;
  for (const heading of document.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    if (!heading.checkVisibility()) continue;
    const next = Number(heading.tagName[1]);
    if (next > level + 1) problems.push(`a level of headings is left out before ${describe(heading)}`);
    level = next;
  }
  for (const live of ['#say', '#status']) {
    const element = document.querySelector(live);
    if (element === null || element.getAttribute('role') !== 'status') problems.push(`${live} does not speak politely`);
  }

  // --- Contrast: text against what is behind it.
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const parse = (color) => {  // any CSS colour, as [r, g, b, a]
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3])).concat(1);
  const backgroundOf = (element) => {
    const layers = [];
    for (let at = element; at !== null; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      layers.push(color);
      if (color[3] >= 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const luminance = (color) => {
    const [r, g, b] = color.slice(0, 3).map((c) => {
      const s = c / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (light + 0.05) / (dark + 0.05);
  };
  const opacityOf = (element) => {
    let opacity = 1;
    for (let at = element; at !== null; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
    return opacity;
  };
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() === '' || !isSeen(element) || element.closest('noscript, script, .skip:not(:focus)')) continue;
    const style = getComputedStyle(element);
    const behind = backgroundOf(element);
    const ink = parse(style.color);
    ink[3] *= opacityOf(element);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = contrast(over(ink, behind), behind);
    texts += 1;
    if (ratio < (large ? 3 : 4.5)) problems.push(`contrast ${ratio.toFixed(2)}: ${describe(element)}`);
  }
  if (texts < 10) problems.push(`only ${texts} texts were looked at`);
  for (const field of document.querySelectorAll('input, select, textarea')) {
    if (!isSeen(field) || field.type === 'checkbox') continue;
    const ratio = contrast(over(parse(getComputedStyle(field).borderTopColor), backgroundOf(field)), backgroundOf(field.parentElement));
    if (ratio < 3) problems.push(`contrast ${ratio.toFixed(2)} of the border of ${describe(field)}`);
  }

  // --- Sizes.
  for (const element of document.querySelectorAll('button, input:not([type="checkbox"]), select, textarea, summary')) {
    const box = element.getBoundingClientRect();
    if (isSeen(element) && (box.width < 24 || box.height < 24)) {
      problems.push(`too small to hit, ${Math.round(box.width)} x ${Math.round(box.height)}: ${describe(element)}`);
    }
  }
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) problems.push(`wider than the window: ${document.documentElement.scrollWidth} of ${width}`);
  for (const element of document.querySelectorAll('body *')) {
    if (!isSeen(element) || element.closest('svg, .unseen, .ribbon')) continue;
    const box = element.getBoundingClientRect();
    if (box.right > width + 1 || box.left < -1) problems.push(`out of the window: ${describe(element)}`);
  }
  return problems;
})();
