/** Entry of the bundle that worker threads run: see cli/workers.ts. */
import { performTask } from '../../commands/crew-tasks.ts';
import { serveCrew } from '../worker-thread.ts';

serveCrew(performTask);
