// The list of sandboxes: stays up to date, and is filtered while somebody types. The server filters: the word is in the address.

import { onEvents, refresh } from './common.js';

onEvents({ after: document.documentElement.dataset.event }, refresh);

const form = document.getElementById('filter');
const { q } = form.elements;
let typing = 0;

function filter() {
  clearTimeout(typing);
  const words = q.value.trim();
  history.replaceState(null, '', words ? `/sandboxes?${new URLSearchParams({ q: words })}` : '/sandboxes');
  refresh();
}

q.addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(filter, 150);
});
form.addEventListener('submit', (event) => {
  event.preventDefault();
  filter();
});
