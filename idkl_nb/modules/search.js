// Search: two networks run in the browser and rank a gallery, for a drawn person or one's own picture
import { BLUE, ORANGE, STYLE, control } from './kit.js'
import { ask, getFile } from './files.js'

const LOOK = `
.idkl fieldset.people { display: block; border: 0; margin: 0.5rem 0; padding: 0 }
.idkl .people legend { float: none; margin-bottom: 0.25rem }
.idkl .people div { display: flex; flex-wrap: wrap; gap: 5px; max-height: 150px; overflow-y: auto; padding: 5px }
.idkl .people label { position: relative }
.idkl .people input { cursor: pointer; inset: 0; margin: 0; opacity: 0; position: absolute; width: 100%; height: 100% }
.idkl .people canvas { display: block; height: 64px; width: 32px }
.idkl .people :checked + canvas { outline: 3px solid ${BLUE} }
.idkl .people :focus-visible + canvas { outline: 3px dashed currentColor; outline-offset: 1px }
.idkl .lists { display: flex; flex-wrap: wrap; gap: 0.5rem 1.5rem }
.idkl .lists section { flex: 1 1 300px }
.idkl .lists figure { flex: none; font: 12px system-ui, sans-serif; margin: 0; text-align: center; width: 60px }
.idkl .lists figure canvas { margin: 0.25rem auto }
.idkl .lists strong { display: block; margin: 0.5rem 0 }
.idkl .lists ol { display: grid; gap: 0.5rem 6px; grid-template-columns: repeat(5, 1fr); list-style: none; margin: 0; padding: 0 }
.idkl .lists li { font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; margin: 0; text-align: center }
.idkl .lists li > span { border: 3px solid transparent; display: block; margin: 0 auto; position: relative; width: 54px; height: 102px }
.idkl .lists .right > span { border-color: ${BLUE} }
.idkl .lists .wrong > span { border: 3px dashed ${ORANGE} }
.idkl .lists canvas { display: block; height: 96px; width: 48px }
.idkl .lists canvas.heat { inset: 0; opacity: 0; position: absolute }
.idkl .lists li:hover canvas.heat, .idkl .lists.hot canvas.heat { opacity: 1 }
.idkl .controls [type=file] { font: inherit; max-width: 100% }
.idkl .search-words { margin-top: 0.5rem }
.idkl .controls progress { flex: 1; max-width: 20rem }
.idkl.over { outline: 2px dashed currentColor; outline-offset: 6px }`

// ---------------------------------------------------------------- files and networks

// The files beside a page, and the networks in the browser
function fromSite(model) {
    const get = name => getFile(model, name)
    const start = async (names, tell) => {
        const files = {}
        const sizes = { 'ort.mjs': 0.1, 'ort.wasm': 12.4 }  // megabytes
        for (const name of names) sizes[`${name}.onnx`] = 2.5
        const all = Object.values(sizes).reduce((total, size) => total + size)
        let loaded = 0
        for (const name in sizes) {
            files[name] = await get(name)
            tell((loaded += sizes[name]) / all)
        }
        const code = new Blob([files['ort.mjs']], { type: 'text/javascript' })
        const ort = await import(URL.createObjectURL(code))
        Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: files['ort.wasm'].buffer })
        ort.env.logLevel = 'error'
        return Promise.all(names.map(async name => {
            const session = await ort.InferenceSession.create(files[`${name}.onnx`])
            return (data, dims) => session.run({ images: new ort.Tensor('uint8', data, dims) })
        }))
    }
    return { get, start }
}

// The same, answered by the package
function fromKernel(model) {
    const get = name => getFile(model, name)
    const start = async names => names.map(method => async data => {
        const [arrays, contents] = await ask(model, { method }, data)
        return Object.fromEntries(Object.entries(arrays).map(([name, dims], n) =>
            [name, { dims, data: new Float32Array(contents[n]) }]))
    })
    return { get, start }
}

function pen(width, height) {
    const canvas = Object.assign(document.createElement('canvas'), { width, height })
    return canvas.getContext('2d', { willReadFrequently: true })
}

// Pictures that stand in rows in one large one
async function cut(bytes, { width, height }) {
    const sheet = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: 'none' })
    const drawn = pen(sheet.width, sheet.height)
    drawn.drawImage(sheet, 0, 0)
    const images = []
    for (let y = 0; y < sheet.height; y += height)
        for (let x = 0; x < sheet.width; x += width)
            images.push(drawn.getImageData(x, y, width, height))
    return images
}

// ---------------------------------------------------------------- the search

const dot = (a, b) => a.reduce((total, x, n) => total + x * b[n], 0)
const mean = values => values.reduce((total, x) => total + x, 0) / values.length

// What a network makes of pictures: features of length 1, their length before, and the last maps
async function embed({ run }, images) {
    const { width, height } = images[0], area = width * height
    const data = new Uint8Array(3 * area * images.length)
    images.forEach((image, n) => {
        for (let at = 0; at < area; at++)
            for (let c = 0; c < 3; c++) data[(3 * n + c) * area + at] = image.data[4 * at + c]
    })
    const { features, maps } = await run(data, [images.length, 3, height, width])
    const part = ({ data, dims }, n) => {
        const size = data.length / dims[0]
        return data.slice(n * size, (n + 1) * size)
    }
    return images.map((_, n) => {
        const feature = part(features, n), length = Math.sqrt(dot(feature, feature))
        return { feature: feature.map(x => x / length), length, map: part(maps, n) }
    })
}

// The gallery by the distance to a query, nearest first
const rank = (query, gallery) => gallery
    .map((found, n) => ({ n, distance: Math.max(0, 1 - dot(query.feature, found.feature)) }))
    .sort((a, b) => a.distance - b.distance)

// Grad-CAM of the cosine: the places of a picture that make it like the query, at least 0. The
// feature is the generalised mean of a map, times the slope of the neck.
function heatOf(query, found, { slope, exponent: p }) {
    const cosine = dot(query.feature, found.feature)
    const places = found.map.length / slope.length
    const heat = new Float32Array(places)
    slope.forEach((steep, c) => {
        const map = found.map.subarray(c * places, (c + 1) * places).map(x => Math.max(x, 1e-6))
        const pooled = mean(map.map(x => x ** p)) ** (1 / p)
        const outer = steep * (query.feature[c] - cosine * found.feature[c]) / found.length
        const weight = outer * pooled ** (1 - p) * mean(map.map(x => x ** (p - 1))) / places
        for (let at = 0; at < places; at++) heat[at] += weight * found.map[c * places + at]
    })
    return heat.map(x => Math.max(x, 0))
}

// All that a search needs; `tell` hears what is being done
async function open({ get, start }, tell) {
    tell('Loading.')
    const about = JSON.parse(new TextDecoder().decode(await get('about.json')))
    const gallery = await cut(await get('gallery.png'), about)
    const queries = {}
    for (const dial of about.dials) queries[dial] = await cut(await get(`queries-${dial}.png`), about)
    const methods = Object.entries(about.methods)
    const runs = await start(Object.keys(about.methods), share => tell('', share / 2))
    const networks = methods.map(([name, known], n) => ({ ...known, name, run: runs[n], gallery: [] }))

    tell('Both networks are looking at the gallery.')
    for (let first = 0; first < gallery.length; first += 8) {
        for (const network of networks)
            network.gallery.push(...await embed(network, gallery.slice(first, first + 8)))
        tell('', 0.5 + Math.min(1, (first + 8) / gallery.length) / 2)
        await new Promise(resolve => setTimeout(resolve))  // the page may answer in between
    }
    return { about, gallery, queries, networks }
}

// ---------------------------------------------------------------- the lists

const SHOWN = 10

// Ranks from 1 of the right pictures, and the average precision
function score(order, right) {
    const ranks = order.flatMap(({ n }, place) => (right(n) ? [place + 1] : []))
    return { first: ranks[0], AP: mean(ranks.map((rank, n) => (n + 1) / rank)) }
}

function painted(image, name, words) {
    const drawn = pen(image.width, image.height)
    drawn.putImageData(image, 0, 0)
    drawn.canvas.className = name
    if (words) drawn.canvas.setAttribute('aria-label', words)
    drawn.canvas.setAttribute(...(words ? ['role', 'img'] : ['aria-hidden', 'true']))
    return drawn.canvas
}

function paintHeat(heat, [height, width]) {
    const most = Math.max(...heat) || 1
    const image = new ImageData(width, height)
    heat.forEach((x, at) => image.data.set([225, 0, 150, 190 * x / most], 4 * at))
    return painted(image, 'heat')
}

function listOf({ name, order, right, heats }, { about, gallery }) {
    const home = document.createElement('section')
    home.innerHTML = `<strong>${name}</strong><ol aria-label="ranked by ${name}"></ol>`
    home.lastChild.append(...order.slice(0, SHOWN).map(({ n, distance }, place) => {
        const person = about.gallery[n], mark = right ? (right(n) ? 'right' : 'wrong') : ''
        const sign = { right: ' ✓', wrong: ' ✗' }[mark] ?? ''
        const item = document.createElement('li')
        item.className = mark
        item.innerHTML = `<span></span>${place + 1}${sign}<br>${distance.toFixed(3)}`
        item.firstChild.append(
            painted(gallery[n], 'picture', `person ${person}${mark && ', '}${mark}`),
            paintHeat(heats[place], about.map))
        return item
    }))
    return home
}

function asked(image, words) {
    const home = document.createElement('figure')
    home.innerHTML = `<strong>query</strong><figcaption>${words}</figcaption>`
    home.insertBefore(painted(image, 'picture'), home.lastChild)
    return home
}

function words({ person, dial, lists, took }) {
    const found = lists.map(({ name, order, right }) => {
        if (!right) return `${name}: nearest at distance ${order[0].distance.toFixed(3)}`
        const { first, AP } = score(order, right)
        return `${name}: first right picture at rank ${first}, AP ${AP.toFixed(3)}`
    })
    const head = person ? `Person ${person} at dial ${dial}` : 'Your picture, which stays on this device'
    return `${head}. ${found.join('. ')}. Both networks answered in ${took.toFixed(0)} ms.`
}

// ---------------------------------------------------------------- the explorer

function people(open, choose) {
    const home = document.createElement('fieldset')
    home.className = 'people'
    home.innerHTML = '<legend>Person to search for, in infrared</legend><div></div>'
    const inputs = open.about.queries.map((person, n) => {
        const label = document.createElement('label')
        label.innerHTML = `<input type="radio" name="idkl-person" value="${n}" aria-label="person ${person}">`
        home.lastChild.append(label)
        return label.firstChild
    })
    home.addEventListener('change', event => choose(Number(event.target.value)))
    let drawn = null  // the stop of the dial
    return [home, ({ person, dial }, own) => {
        inputs.forEach((input, n) => {
            input.checked = n === person && !own
            if (drawn !== dial) input.parentNode.replaceChildren(input, painted(open.queries[dial][n], ''))
        })
        drawn = dial
    }]
}

// A file that is chosen, or dropped on the explorer, as a picture of the networks' size
function ownPicture(box, { width, height }, take, say) {
    const read = async file => {
        if (!file) return
        try {
            const size = { resizeWidth: width, resizeHeight: height, resizeQuality: 'high' }
            const bitmap = await createImageBitmap(file, size)
            const drawn = pen(width, height)
            drawn.fillRect(0, 0, width, height)
            drawn.drawImage(bitmap, 0, 0)
            take(drawn.getImageData(0, 0, width, height))
        } catch {
            say(`${file.name} is no picture that this browser can read. Choose a PNG or JPEG.`)
        }
    }
    const home = document.createElement('label')
    home.innerHTML = 'or a picture of your own <input type="file" accept="image/*">'
    home.lastChild.addEventListener('change', event => read(event.target.files[0]))
    for (const [kind, over] of [['dragover', true], ['dragleave', false], ['drop', false]])
        box.addEventListener(kind, event => {
            event.preventDefault()
            box.classList.toggle('over', over)
            if (kind === 'drop') read(event.dataTransfer.files[0])
        })
    return home
}

function hotButton(lists) {
    const home = document.createElement('label')
    home.innerHTML = '<input type="checkbox"> show where they are alike'
    home.firstChild.addEventListener('change', event => lists.classList.toggle('hot', event.target.checked))
    return home
}

function render({ model, el }) {
    const still = document.querySelector('[data-explorer="search"] > img')
    el.innerHTML = `<div class="idkl"><style>${STYLE}${LOOK}</style><div class="controls">` +
        `<button type="button">load the search${model.send ? '' : ` (${model.get('state').megabytes} MB)`}</button></div>` +
        '<div class="lists"></div><output class="search-words" aria-live="polite"></output></div>'
    const box = el.firstChild, lists = el.querySelector('.lists')
    const controls = el.querySelector('.controls'), button = controls.firstChild
    if (still && !model.send) lists.append(still)
    const say = sentence => { el.querySelector('output').textContent = sentence }

    let opened = null, own = null, follow = () => {}, turn = 0, work = Promise.resolve()
    const now = () => model.get('state')

    async function answer(mine) {
        if (mine !== turn) return  // somebody asked again
        const { person: at, dial } = now(), { about, networks, queries } = opened
        const image = own ?? queries[dial][at]
        const right = own ? null : n => about.gallery[n] === about.queries[at]
        const began = performance.now()
        const found = []
        for (const network of networks) {
            const [query] = await embed(network, [image])
            found.push({ network, query, order: rank(query, network.gallery) })
        }
        const took = performance.now() - began
        if (mine !== turn) return

        const ranked = found.map(({ network, query, order }) => ({
            name: network.name, order, right,
            heats: order.slice(0, SHOWN).map(({ n }) => heatOf(query, network.gallery[n], network)),
        }))
        const person = own ? null : about.queries[at]
        lists.replaceChildren(asked(image, person ? `person ${person}` : 'your picture'), ...ranked.map(list => listOf(list, opened)))
        say(words({ person, dial, lists: ranked, took }))
        box.answer = { took, lists: ranked.map(({ name, order, heats }) => ({ name, order, heats })) }
    }

    function show() {
        if (!opened) return
        for (const each of follow) each(now(), own)
        const mine = ++turn
        work = work.then(() => answer(mine)).catch(error => say(`The search failed: ${error.message}`))
    }

    function act(next, picture = null) {
        own = picture
        const same = JSON.stringify(next) === JSON.stringify(now())
        model.set('state', next)
        model.save_changes()
        if (same) show()
    }

    function begin() {
        const dial = control({ choose: 'dial', label: 'dial', options: opened.about.dials }, now, act)
        const choice = people(opened, person => act({ ...now(), person }))
        const file = ownPicture(box, opened.about, image => act({ ...now() }, image), say)
        follow = [dial[1], choice[1], (_, own) => { if (!own) file.lastChild.value = '' }]
        const focused = controls.contains(document.activeElement)
        controls.replaceChildren(dial[0], file, hotButton(lists))
        box.insertBefore(choice[0], controls)
        show()
        if (focused) choice[0].querySelector(':checked').focus({ preventScroll: true })
    }

    button.addEventListener('click', async () => {
        if (button.ariaDisabled === 'true') return
        button.ariaDisabled = 'true'
        const progress = document.createElement('progress')
        progress.setAttribute('aria-label', 'loaded')
        controls.append(progress)
        try {
            opened = await open(model.send ? fromKernel(model) : fromSite(model), (sentence, share) => {
                if (sentence) say(sentence)
                if (share) progress.value = share
            })
            begin()
        } catch (error) {
            progress.remove()
            button.textContent = 'not available here'
            say(`The search could not be loaded here: ${error.message}. It runs on the project's ` +
                'site, and in a copy that was built with a network and is served, not opened as a file.')
        }
    })
    model.on('change:state', show)
    return () => model.off('change:state', show)
}

export default { render }
