// The account page: makes tokens and changes roles. What is taken away is done by the buttons in common.js.

import { Problem, api, isSignedOut, refresh, say } from './common.js';

// ── a new token ──
const form = document.getElementById('token-form');
if (form) {
  const { name, kind, service, days } = form.elements;
  const problem = document.getElementById('token-problem');
  const made = document.getElementById('token-made');
  const value = document.getElementById('token-value');
  const copy = document.getElementById('token-copy');

  const fit = () => {
    service.disabled = kind.value !== 'deploy';
    if (service.disabled) service.value = '';
  };
  kind.addEventListener('change', () => {
    fit();
    // A machine whose token ends some day stops then: whoever wants that says so.
    days.value = ['bot', 'agent'].includes(kind.value) ? '' : days.defaultValue;
  });
  fit();

  const fields = { token_exists: name, invalid_name: name, unknown_service: service };
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const button = form.querySelector('button[type=submit]');
    if (button.disabled) return;
    const wanted = { name: name.value.trim(), kind: kind.value };
    if (service.value) wanted.service = service.value;
    if (days.value) wanted.expires_in_days = Number(days.value);
    for (const field of Object.values(fields)) field.removeAttribute('aria-invalid');
    problem.hidden = true;
    made.hidden = true;
    value.textContent = '';
    button.disabled = true;
    button.setAttribute('aria-busy', 'true');
    try {
      const headers = { 'content-type': 'application/json' };
      const token = await api('/api/v1/tokens', { method: 'POST', headers, body: JSON.stringify(wanted) });
      document.getElementById('token-made-name').textContent = token.name;
      value.textContent = token.token;
      made.hidden = false;
      name.value = '';
      await refresh();
      made.scrollIntoView({ block: 'nearest' });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (isSignedOut()) return;
      problem.textContent = error.words();
      problem.hidden = false;
      const field = fields[error.code];
      if (field) {
        field.setAttribute('aria-invalid', 'true');
        field.focus();
      }
    } finally {
      button.disabled = false;
      button.removeAttribute('aria-busy');
    }
  });

  copy.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(value.textContent);
      say('Copied.');
    } catch {
      // Plain http has no clipboard for pages: it is marked, and the keyboard copies it.
      getSelection().selectAllChildren(value);
      say('It is marked: press Ctrl+C.');
    }
  });
  // A page that is kept for the way back must not show it again.
  addEventListener('pagehide', () => {
    value.textContent = '';
    made.hidden = true;
  });
}

// ── roles ──
document.addEventListener('change', async (event) => {
  const choice = event.target.closest?.('select[data-person]');
  if (!choice) return;
  const person = choice.dataset.person;
  const before = choice.querySelector('option[selected]')?.value;
  choice.disabled = true;
  try {
    const headers = { 'content-type': 'application/json' };
    const body = JSON.stringify({ role: choice.value });
    const now = await api(`/api/v1/people/${encodeURIComponent(person)}`, { method: 'PUT', headers, body });
    say(`${person} is ${now.role === 'admin' ? 'an' : 'a'} ${now.role} from now on.`);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    choice.value = before;
    if (!isSignedOut()) say(error.words(), { bad: true });
  } finally {
    choice.disabled = false;
    refresh();
  }
});
