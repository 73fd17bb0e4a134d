// Cells of a page that run in it: Python as WebAssembly (Pyodide), loaded when somebody asks for it.
// A mark <div class="runs-here"> stands before each; a cell runs after those that stand above it.
// `options` has the folder of Pyodide's files, their size, and code that runs before all cells.

const SHOW = `
import traceback
from pyodide.code import eval_code

def show(code, names):
    try:
        value = eval_code(code, names, filename='cell')
    except BaseException as error:
        places = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == 'cell']
        line = f' (line {places[-1]})' if places else ''
        print(''.join(traceback.format_exception_only(error)).strip() + line)
        return False
    if value is not None:
        print(repr(value))
    return True
`

// The text of a worker: a question has a number and code, its answer lines and whether it went well
const worker = (folder, setup) => `
import { loadPyodide } from '${folder}pyodide.mjs'
let lines = []
const hear = line => lines.push(line)
const ready = loadPyodide({ indexURL: '${folder}', stdout: hear, stderr: hear }).then(python => {
    const names = python.toPy({ __name__: '__main__' })
    python.runPython(${JSON.stringify(SHOW)})
    python.runPython(${JSON.stringify(setup)}, { globals: names })
    const show = python.globals.get('show')
    return code => show(code, names)
})
onmessage = async ({ data: { question, code } }) => {
    try {
        const show = await ready
        lines = []
        const well = show(code)
        postMessage({ question, lines, well })
    } catch (error) {
        postMessage({ question, lines: ['Python could not be loaded: ' + error.message], well: false })
    }
}`

let python = null, questions = 0

function start() {
    const address = new URL(`${options.folder}/`, document.baseURI).href
    const code = new Blob([worker(address, options.setup)], { type: 'text/javascript' })
    python = new Worker(URL.createObjectURL(code), { type: 'module' })
    python.waiting = new Map()
    python.onmessage = ({ data }) => python.waiting.get(data.question)(data)
    python.onerror = () => {  // the module itself is not there
        const lines = ['Python could not be loaded. It is on the published site, and in a copy that ' +
            'was built with a network and is served, not opened as a file.']
        const answers = [...python.waiting.values()]
        stop()
        for (const answer of answers) answer({ lines, well: false })
    }
}

function stop() {
    python?.terminate()
    python = null
    for (const cell of cells) cell.ran = null
}

const ask = code => new Promise(answer => {
    python.waiting.set(++questions, answer)
    python.postMessage({ question: questions, code })
})

// ---------------------------------------------------------------- cells

const marked = [...document.querySelectorAll('.runs-here, div.cell')]
const cells = [...document.querySelectorAll('.runs-here')].map((mark, n) => {
    const home = marked[marked.indexOf(mark) + 1]
    const code = home.querySelector('pre > code')
    const kept = [...home.querySelectorAll('.cell-output, .output')]
    const cell = { mark, home, kept, ran: null, written: code.innerText.trimEnd() }
    cell.code = () => cell.field?.value ?? cell.written
    mark.innerHTML = '<button type="button">edit and run here</button> ' +
        '<button type="button" hidden>as it was</button> <span></span>'
    const [run, again, note] = mark.children
    note.textContent = n ? '' : `(the first time it loads Python, ${options.megabytes} MB)`

    const output = document.createElement('pre')
    output.className = 'ran-here'
    output.setAttribute('aria-live', 'polite')
    output.hidden = true
    home.append(output)

    cell.say = (lines, well = true) => {
        output.textContent = lines.join('\n') || 'It ran, and has nothing to show.'
        output.hidden = false
        output.classList.toggle('failed', !well)
        for (const old of kept) old.hidden = true
        dispatchEvent(new Event('resize'))  // what is wide now is reached by Tab
    }
    const edit = () => {
        const block = code.closest('pre')
        cell.field = document.createElement('textarea')
        Object.assign(cell.field, { value: cell.written, spellcheck: false })
        cell.field.rows = cell.written.split('\n').length + 1
        cell.field.setAttribute('aria-label', `Python, cell ${n + 1}`)
        cell.field.addEventListener('keydown', event => {
            if (event.key !== 'Enter' || !(event.shiftKey || event.ctrlKey)) return
            event.preventDefault()
            runTo(cell)
        })
        block.replaceWith(cell.field)
        cell.field.focus({ preventScroll: true })
        again.hidden = false
        note.textContent = 'Shift and Enter run it, too'
    }
    run.addEventListener('click', () => {
        if (run.textContent === 'stop') return stopped()
        if (!cell.field) edit()
        runTo(cell)
    })
    again.addEventListener('click', () => {
        cell.field.value = cell.written
        runTo(cell)
    })
    const stopped = () => {
        stop()
        cell.say(['Stopped. The next run begins anew.'], false)
        busy(false)
    }
    const busy = on => { run.textContent = on ? 'stop' : 'run' }
    cell.busy = busy
    return cell
})

// Those above that have not run as they stand, then this one; a cell that fails ends it
async function runTo(last) {
    if (!python) start()
    const mine = python
    last.busy(true)
    if (!mine.answered) last.say(['Python is being started …'])
    for (const cell of cells.slice(0, cells.indexOf(last) + 1)) {
        const text = cell.code()
        if (cell !== last && cell.ran === text) continue
        const { lines, well } = await ask(text)
        if (cell === last || !well) cell.say(lines, well)
        if (python !== mine) return last.busy(false)  // it is not there
        mine.answered = true
        cell.ran = well ? text : null
        if (!well && cell !== last) last.say(['A cell above did not run.'], false)
        if (!well) break
    }
    last.busy(false)
}
