// A page that is only read: stays up to date.

import { onEvents, refresh } from './common.js';

onEvents({ after: document.documentElement.dataset.event }, refresh);
