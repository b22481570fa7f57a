// The home page: stays up to date, and deploys.

import { Problem, api, isSignedOut, onEvents, pathOf, refresh } from './common.js';

onEvents({ after: document.documentElement.dataset.event }, refresh);

const form = document.getElementById('deploy-form');
if (form) {
  const { service, git_ref: branch, sandbox, username, password } = form.elements;
  const options = document.getElementById('branches');
  const found = document.getElementById('branches-found');
  const problem = document.getElementById('deploy-problem');
  const login = document.getElementById('git-login');
  const SHOWN = 200;
  let listed = { of: null, names: [] };
  let asked = null;

  // ── branches, when somebody wants to choose one ──
  const offer = () => {
    const typed = branch.value.trim().toLowerCase();
    const fitting = listed.names.filter((name) => name.toLowerCase().includes(typed)).slice(0, SHOWN);
    options.replaceChildren(...fitting.map((name) => Object.assign(document.createElement('option'), { value: name })));
  };
  const list = async () => {
    const of = service.value;
    if (!of || listed.of === of || asked === of) return;
    asked = of;
    found.textContent = 'Looking for branches …';
    try {
      const answer = await api(`/api/v1/services/${encodeURIComponent(of)}/branches`);
      if (service.value !== of) return;
      listed = { of, names: [...answer.branches, ...answer.tags].map((ref) => ref.name) };
      const [branches, tags] = [answer.branches.length, answer.tags.length];
      const plural = (n, one, many) => `${n} ${n === 1 ? one : many}`;
      found.textContent = `${plural(branches, 'branch', 'branches')}${tags ? `, ${plural(tags, 'tag', 'tags')}` : ''} to choose from`;
      offer();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (service.value !== of) return;
      found.textContent =
        error.code === 'credentials_needed'
          ? 'The git host wants a login before it lists branches: type the name, and fill in “Git login”.'
          : `Branches cannot be listed now: type the name. (${error.words()})`;
      if (error.code === 'credentials_needed') login.open = true;
    } finally {
      if (asked === of) asked = null;
    }
  };
  const suggest = () => {
    branch.placeholder = `the last one there, else ${service.selectedOptions[0]?.dataset.default ?? 'main'}`;
  };
  const chosen = () => {
    listed = { of: null, names: [] };
    options.replaceChildren();
    found.textContent = '';
    suggest();
  };
  service.addEventListener('change', () => {
    chosen();
    list();
  });
  branch.addEventListener('focus', list);
  branch.addEventListener('input', offer);
  suggest();

  // ── deploy ──
  const fields = {
    unknown_service: service,
    invalid_branch: branch,
    ref_not_found: branch,
    invalid_name: sandbox,
    unknown_sandbox: sandbox,
    credentials_needed: password,
  };
  let last = { body: '', key: '' };
  // `crypto.randomUUID` is not there on plain http, `getRandomValues` is.
  const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');

  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const button = form.querySelector('button[type=submit]');
    if (button.disabled) return;
    const wanted = { service: service.value };
    if (branch.value.trim()) wanted.git_ref = branch.value.trim();
    if (sandbox.value.trim()) wanted.sandbox = sandbox.value.trim();
    const plain = JSON.stringify(wanted);
    if (password.value) wanted.git_credential = { username: username.value, password: password.value };
    const body = JSON.stringify(wanted);
    // The same request pressed again after a lost answer is the same deployment.
    if (last.body !== plain) last = { body: plain, key: newKey() };
    for (const field of Object.values(fields)) field.removeAttribute('aria-invalid');
    problem.hidden = true;
    button.disabled = true;
    button.setAttribute('aria-busy', 'true');
    try {
      const headers = { 'content-type': 'application/json', 'idempotency-key': last.key };
      const created = await api('/api/v1/deployments', { method: 'POST', headers, body });
      last = { body: '', key: '' };
      password.value = '';
      location.assign(pathOf(created.log_url));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.code !== 'network') last = { body: '', key: '' };
      if (isSignedOut()) return;
      problem.textContent = error.words();
      problem.hidden = false;
      const field = fields[error.code];
      if (error.code === 'credentials_needed') login.open = true;
      if (field) {
        field.setAttribute('aria-invalid', 'true');
        field.focus();
      }
    } finally {
      button.disabled = false;
      button.removeAttribute('aria-busy');
    }
  });
}
